"""Reward models as transformers has them: LlamaForSequenceClassification, GPTNeoXForSequenceClassification."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lc_jax.models import hf, tensors
from lc_jax.models.folders import write_text_files
from lc_jax.models.layout import BACKBONE, HEAD, SCORE, new_folder
from lc_jax.models.registry import family_of, kind_of
from lc_jax.models.tensors import Spec
from lc_jax.models.transformer import Model

BIAS = "reward_head_bias"  # key of config.json: what transformers' head, which has no bias, leaves out


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
    arrays: Iterable[jax.Array] | None = None,
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
    dtype, family = model.config.param_dtype, family_of(model.config)[0]
    norm, head = (BACKBONE + family.KEYS.get(name, "") for name in ("norm.bias", "head.kernel"))
    last = (HEAD + "weight", norm)  # written after all others: what the bias is folded into, and by what
    specs = {spec.key: spec for spec in hf.specs_of(model, dtype) if spec.key not in (head, HEAD + "bias")}
    order = [key for key in specs if key not in last] + [key for key in last if key in specs]
    bias = 0.0

    def values() -> Iterator[np.ndarray]:
        nonlocal bias
        kept: dict[str, np.ndarray] = {}
        for key, value in hf.tensors_of(model, arrays):
            if key in (*last, HEAD + "bias"):
                kept[key] = value.astype(np.float32)
            elif key in specs:
                yield value.astype(dtype)
        weight, bias = kept[last[0]], float(kept[HEAD + "bias"][0])
        yield weight.astype(dtype)
        if norm in specs:
            folded = _fold(bias, weight[0], kept[norm], dtype)
            bias = 0.0 if weight.any() else bias  # before the last value is drawn
            yield folded

    names = {HEAD + "weight": SCORE}
    renamed = [Spec(names.get(k, k.removeprefix(BACKBONE)), specs[k].shape, dtype) for k in order]
    with new_folder(Path(path)) as folder:
        tensors.write(folder, renamed, values(), max_shard_bytes)
        if jax.process_index() != 0:
            return
        write_text_files(folder, tokenizer)
        config = model.config.to_hf()
        name = config["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")
        config |= {"architectures": [name], "dtype": dtype, "pad_token_id": pad_id}
        config |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        config |= {BIAS: bias} if bias else {}
        (folder / "config.json").write_text(json.dumps(config, indent=2))
