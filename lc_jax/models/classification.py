"""Reward models as transformers has them: LlamaForSequenceClassification and those of the other families."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lc_jax import parallel
from lc_jax.models import tensors
from lc_jax.models.folders import write_text_files
from lc_jax.models.layout import BACKBONE, SCORE, new_folder
from lc_jax.models.params import NamedArrays, named_arrays, param_specs, stored_tensors, tensors_of
from lc_jax.models.registry import config_to_hf, kind_of
from lc_jax.models.tensors import TensorSpec
from lc_jax.models.transformer import Model

BIAS = "reward_head_bias"  # key of config.json: what transformers' head, which has no bias, leaves out
# Paths of the parameters that are not written as they are.
HEAD_WEIGHT, HEAD_BIAS = ("reward_head", "weight"), ("reward_head", "bias")
NORM_BIAS, LM_HEAD = ("backbone_model", "norm", "bias"), ("backbone_model", "head", "kernel")


def _fold(bias: float, weight: np.ndarray, norm: np.ndarray, dtype: str) -> np.ndarray:
    """The norm's bias [D] in `dtype` that adds `bias` to its product with the head's `weight` [D], rounding included.

    What one element loses by rounding is added to the next, whose weight is about as large or smaller, so that the sum
    is as exact as the last element's share of it.
    """
    result = norm.astype(dtype)
    square = float(np.sum(weight.astype(np.float64) ** 2))
    rest = 0.0  # of the product, that rounding has left over
    for place in np.argsort(-np.abs(weight), kind="stable"):
        factor = float(weight[place])
        if factor:
            exact = float(norm[place]) + bias / square * factor + rest / factor
            result[place] = exact
            rest = (exact - float(result[place])) * factor
    return result


def save(
    path: str | Path,
    model: Model,
    *,
    arrays: NamedArrays | None = None,
    tokenizer: Any = None,
    pad_id: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers opens with AutoModelForSequenceClassification, with one label: the logit.

    transformers' head has no bias. GPT-NeoX's final LayerNorm takes it up, so that the logits are equal; Llama's
    RMSNorm cannot, so that config.json has it as `reward_head_bias`, and the logit is transformers' score plus that.

    Args:
      arrays, tokenizer, max_shard_bytes: as in `hf.save`.
      pad_id: the token after the last real one; transformers needs it to score several rows at once.

    Raises:
      ValueError: the model is no reward model.
    """
    if kind_of(model) != "scalar":
        raise ValueError("A language model has no reward: only reward models are written as sequence classification.")
    dtype = model.config.param_dtype
    # The head's bias is folded into the norm's, so that these are written after all others.
    last = {spec.path: spec for spec in param_specs(model) if spec.path in (HEAD_WEIGHT, NORM_BIAS)}
    plain = [s for s in param_specs(model) if s.path not in (HEAD_WEIGHT, HEAD_BIAS, NORM_BIAS, LM_HEAD)]
    specs = [dataclasses.replace(spec, key=spec.key.removeprefix(BACKBONE)) for spec in tensors_of(plain, dtype)]
    specs.append(TensorSpec(SCORE, last[HEAD_WEIGHT].hf_shape, dtype))
    if NORM_BIAS in last:
        norm_key = last[NORM_BIAS].hf_keys[0].removeprefix(BACKBONE)
        specs.append(TensorSpec(norm_key, last[NORM_BIAS].hf_shape, dtype))
    bias = 0.0

    def values() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal bias
        vectors: dict[tuple[str, ...], np.ndarray] = {}

        def others() -> NamedArrays:
            for spec, array in named_arrays(model) if arrays is None else arrays:
                if spec.path in (HEAD_WEIGHT, HEAD_BIAS, NORM_BIAS):
                    vectors[spec.path] = parallel.to_host(array).astype(np.float32)
                elif spec.path != LM_HEAD:
                    yield spec, array

        for key, value in stored_tensors(others()):
            yield key.removeprefix(BACKBONE), value.astype(dtype)
        weight, bias = vectors[HEAD_WEIGHT], float(vectors[HEAD_BIAS][0])
        yield SCORE, weight.astype(dtype)
        if NORM_BIAS in last:
            folded = _fold(bias, weight[0], vectors[NORM_BIAS], dtype)
            bias = 0.0 if weight.any() else bias  # before the last value is drawn
            yield norm_key, folded

    with new_folder(Path(path)) as folder:
        tensors.write(folder, specs, values(), max_shard_bytes)
        if jax.process_index() != 0:
            return
        write_text_files(folder, tokenizer)
        config = config_to_hf(model.config)
        name = config["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")
        config |= {"architectures": [name], "dtype": dtype, "pad_token_id": pad_id}
        config |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        config |= {BIAS: bias} if bias else {}
        (folder / "config.json").write_text(json.dumps(config, indent=2))
