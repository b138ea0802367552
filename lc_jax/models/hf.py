"""Hugging Face checkpoint folders in and out, tensor by tensor: each device reads its own shard from the file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from lc_jax import parallel
from lc_jax.models import adapters
from lc_jax.models import tensors as files
from lc_jax.models.adapters import HEAD_KEY, AdapterFolder
from lc_jax.models.classification import HEAD_BIAS, HEAD_WEIGHT
from lc_jax.models.folders import write_adapter_config, write_configs
from lc_jax.models.layout import ADAPTER, BUFFERS, HEAD, SCORE, new_folder
from lc_jax.models.linear import quantise
from lc_jax.models.params import (
    NamedArrays,
    ParamSpec,
    named_arrays,
    param_specs,
    stored_tensors,
    tensor_specs,
    tensors_of,
    with_arrays,
)
from lc_jax.models.registry import FAMILIES, abstract_model
from lc_jax.models.source import Source, causal_path, shareable
from lc_jax.models.tensors import Tensors, check_values
from lc_jax.models.transformer import Model

# Endings of what quantised checkpoints store next to, or in place of, their weights.
QUANTISED = ("weight_scale", "weight_scale_inv", "qweight", "qzeros", "absmax", "weight_packed", "SCB", "quant_map")


# --- in ---


def load(path: str | Path, mesh: jax.sharding.Mesh, **settings: Any) -> Model:
    """Loads the checkpoint at `path`, each shard straight to its device; arguments and errors are those of `read`."""
    model, arrays = read(path, mesh, **settings)
    return with_arrays(model, {spec.path: array for spec, array in arrays})


def read(
    path: str | Path,
    mesh: jax.sharding.Mesh,
    *,
    kind: str = "causal",
    vocab_size: int | None = None,
    fresh_head: bool = False,
    backbone: Model | None = None,
    **fields: Any,
) -> tuple[Model, NamedArrays]:
    """Returns the abstract model of a checkpoint, and its parameters, each of which is read when it is drawn.

    The folder of an adapter is read as the matrices W + (alpha / rank) A B. With `lora` in `fields` its matrices stay
    apart, and a folder that is no adapter gets a fresh one.

    Args:
      kind: "causal", or "scalar" for a reward or value model; a plain language model gets a fresh, zero head then.
      vocab_size: grow (new rows are the mean of the old) or shrink the embedding to this many rows.
      fresh_head: a zero scalar head even where the checkpoint has one: how a value model starts.
      backbone: a model with adapters, whose frozen parameters are used where the checkpoint has the same base: an
        adapter then costs no more than its own parameters.
      fields: param_dtype, compute_dtype, remat, lora of `Config`.

    Raises:
      FileNotFoundError: the checkpoint is not there.
      ValueError: tensors are missing, too many, or of other shapes than config.json says, and all of them are named; or
        a tensor holds NaN or infinities (when it is read), the checkpoint is quantised, or `lora` is not as the adapter
        has it.
    """
    source = Source.at(path)
    config, stored_kind = source.config(**fields)
    if kind == "causal" and stored_kind == "scalar":
        raise ValueError(f"{path} is a reward model; a language model is needed here.")
    if config.tied_embeddings and not source.is_tied(config):
        logging.warning(
            "%s: config.json ties the embeddings, but the file holds another head, which is used", source.base
        )
        config = dataclasses.replace(config, tied_embeddings=False)
    config = dataclasses.replace(config, vocab_size=vocab_size or config.vocab_size, lora=source.lora(config, backbone))
    model = abstract_model(config, kind, mesh)
    specs, from_adapter = param_specs(model), source.adapter_specs(config, kind)
    constants: dict[tuple[str, ...], Any] = {}  # parameters that the folder does not hold
    if fresh_head or stored_kind == "causal":
        constants = {spec.path: 0.0 for spec in specs if spec.path[0] == "reward_head"}
    elif (bias := source.head_bias) is not None:
        constants = {("reward_head", "bias"): bias}
    if source.adapter is None:
        constants |= {spec.path: _fresh_adapter(spec) for spec in specs if spec.is_adapter}
    shared = shareable(backbone, config)
    if backbone is not None and backbone.config.lora is not None:
        verb = "uses" if shared else "does not use"
        logging.info("%s %s the arrays of %s, which the policy adapts", path, verb, backbone.config.lora.base)
    own = [s for s in specs if s.path not in constants and s.path not in from_adapter and not s.is_scale]
    _check_tensors(source.base, source.tensors, [source.as_stored(spec) for spec in own], source.vocab_size)
    if source.adapter is not None:
        _check_tensors(source.folder, source.adapter.tensors, list(from_adapter.values()), 0)

    def arrays() -> Iterator[tuple[ParamSpec, jax.Array]]:
        merge = source.adapter if config.lora is None else None
        for spec in specs:
            array = shared.get(causal_path(spec.path))
            if array is not None and spec.describes(array):
                yield spec, array
                continue
            if spec.path in constants:
                shard = _constant_shard(spec, constants[spec.path])
            elif source.adapter is not None and spec.path in from_adapter:
                shard = _shard_reader(source.adapter.tensors, from_adapter[spec.path], 0)
            else:
                shard = _shard_reader(source.tensors, source.as_stored(spec), source.vocab_size, merge)
            assert spec.sharding is not None  # the model is on a mesh
            yield spec, jax.make_array_from_callback(spec.shape, spec.sharding, shard)

    return model, arrays()


def _fresh_adapter(spec: ParamSpec) -> Any:
    """Returns a new adapter's values: B is zero and A uniform with PEFT's bound; the same whenever it is loaded."""
    if spec.path[-1] == "lora_b":
        return 0.0
    rng, bound = np.random.default_rng(list("/".join(spec.path).encode())), 1 / math.sqrt(spec.shape[-2])
    return rng.uniform(-bound, bound, spec.shape)


def _check_tensors(folder: Path, tensors: Tensors, specs: Sequence[ParamSpec], vocab_size: int) -> None:
    """Refuses a folder whose tensors differ from `specs`; config.json gives its vocabulary `vocab_size` rows.

    Raises:
      ValueError: names the first 20 tensors that are missing, unknown, or of another shape; or one that is quantised.
    """
    expected, actual = {key for spec in specs for key in spec.hf_keys}, set(tensors.names())
    unknown = {k for k in actual - expected if not k.endswith(BUFFERS) and not k.startswith((HEAD, SCORE))}
    is_adapter = adapters.is_adapter(folder)
    if not is_adapter and not any(spec.path[-2:] == ("head", "kernel") for spec in specs):
        # Of tied parameters the embedding may be written twice.
        unknown = {
            k for k in unknown if not k.endswith(tuple(family.KEYS["head.kernel"] for family in FAMILIES.values()))
        }
    odd = {tensors.slice(key).get_dtype() for key in expected & actual} - set(files.FLOATS)
    if odd or any(key.endswith(QUANTISED) for key in unknown):
        names = sorted(key for key in unknown if key.endswith(QUANTISED))[:1] or sorted(odd)
        raise ValueError(f"{folder} is quantised ({names[0]}), which is not read. {files.QUANTISED}")
    source = "the base" if is_adapter else "config.json"
    problems = [f"missing: {k}" for k in sorted(expected - actual)] + [f"unknown: {k}" for k in sorted(unknown)]
    for spec in specs:
        shape = (vocab_size, *spec.hf_shape[1:]) if spec.is_vocabulary else spec.hf_shape
        for key in spec.hf_keys:
            if key in actual and tensors.shape(key) != shape:
                problems.append(f"{key} has shape {list(tensors.shape(key))}, {source} asks for {list(shape)}")
    problems = list(dict.fromkeys(problems))  # a tensor of several parameters is named once
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        name = f"{ADAPTER} and base_model_name_or_path there" if is_adapter else "config.json"
        raise ValueError(f"{folder} does not fit its {name}:\n  " + "\n  ".join(problems[:20]) + more)


def _constant_shard(spec: ParamSpec, numbers: Any) -> Callable[[Any], np.ndarray]:
    """Returns the callback that fills one shard of a parameter, from one number or all of them."""
    values = np.broadcast_to(np.asarray(numbers, spec.dtype), spec.shape)
    return lambda index: values[index]


def _shard_reader(
    tensors: Tensors, spec: ParamSpec, old_vocab_size: int, adapter: AdapterFolder | None = None
) -> Callable[[Any], np.ndarray]:
    """Returns the callback that reads one shard of a parameter; equal shards are read once.

    Args:
      adapter: what is added to the matrices.
    """
    shards: dict[str, np.ndarray] = {}

    def matrix(key: str, index: tuple[slice, ...]) -> np.ndarray:
        if spec.is_scale or spec.dtype == "int8":  # by column: all of it is needed
            columns = tensors.slice(key)[index[-1]].T
            check_values(tensors.folder, key, columns)
            values, scale = quantise(columns.astype(np.float32))
            return scale if spec.is_scale else values[index[0]]
        lazy, index = tensors.slice(key), index[::-1] if spec.transposed else index
        if spec.rows is not None:
            index = (slice(spec.rows[0] + index[0].start, spec.rows[0] + index[0].stop), *index[1:])
        part = _vocabulary_rows(lazy, index[0], index[1], old_vocab_size) if spec.is_vocabulary else lazy[index]
        check_values(tensors.folder, key, part)
        if adapter is not None and not spec.is_vocabulary:
            part = adapter.merge(part, key, index)
        return (part.T if spec.transposed else part).astype(spec.dtype)

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        index = tuple(slice(*s.indices(n)) for s, n in zip(index, spec.shape, strict=True))
        if str(index) not in shards:
            if spec.stacked:
                layers = shards[str(index)] = np.empty([s.stop - s.start for s in index], spec.dtype)
                for layer, key in zip(layers, spec.hf_keys[index[0]], strict=True):
                    layer[...] = matrix(key, index[1:])
            else:
                shards[str(index)] = matrix(spec.hf_keys[0], index)
        return shards[str(index)]

    return shard


def _vocabulary_rows(lazy: Any, rows: slice, columns: slice, old: int) -> np.ndarray:
    """Returns rows of an embedding; new ones are the mean of the old rows (Hewitt 2021), in float32."""
    old_rows = lazy[min(rows.start, old - 1) : min(rows.stop, old), columns][: max(0, old - rows.start)]
    if rows.stop <= old:
        return old_rows
    mean = np.mean(lazy[:old, columns].astype(np.float32), axis=0, keepdims=True)
    new = np.repeat(mean, rows.stop - max(rows.start, old), axis=0).astype(old_rows.dtype)
    return np.concatenate([old_rows, new])


def stored_dtype(path: str | Path) -> str:
    """Returns the dtype that most tensors of the checkpoint, of an adapter those of its base, are stored in."""
    return Source.at(path).tensors.dtype()


# --- out ---


def save(
    path: str | Path,
    model: Model,
    *,
    arrays: NamedArrays | None = None,
    tokenizer: Any = None,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers opens: config, safetensors shards, index, generation config, tokenizer.

    Of a model with adapters these alone are written, and a scalar head, into a folder that PEFT opens. Tensors come to
    the host one at a time. The folder appears only when it is complete, in place of an older one.

    Args:
      arrays: the parameters of an abstract `model` (see `read`); default its own.
      tokenizer: what writes its own files (data.tokenizer.Tokenizer), or a folder whose files are copied: tokenizer,
        chat templates and generation_config.json.
      dtype: of the files; default the parameters' own.
    """
    dtype = dtype or model.config.param_dtype
    if model.config.lora is not None:
        _save_adapter(Path(path), model, dtype, tokenizer)
        return
    with new_folder(Path(path)) as folder:
        values = ((key, value.astype(dtype)) for key, value in host_tensors(model, arrays))
        files.write(folder, tensor_specs(model, dtype), values, max_shard_bytes)
        if jax.process_index() == 0:
            write_configs(folder, model, dtype, tokenizer)


def _save_adapter(path: Path, model: Model, dtype: str, tokenizer: Any) -> None:
    """Writes the adapter of a model, and a scalar head, as PEFT does; the bias of the head goes into the config."""
    bias, trained = 0.0, list[tuple[ParamSpec, jax.Array]]()
    for spec, array in named_arrays(model):
        if spec.path == HEAD_BIAS:
            bias = float(parallel.to_host(array)[0])
        elif spec.is_adapter or spec.path == HEAD_WEIGHT:
            keys = (HEAD_KEY,) if spec.path == HEAD_WEIGHT else spec.hf_keys
            trained.append((dataclasses.replace(spec, hf_keys=keys), array))
    with new_folder(path) as folder:
        values = ((key, value.astype(dtype)) for key, value in stored_tensors(trained))
        specs = tensors_of([spec for spec, _ in trained], dtype)
        files.write(folder, specs, values, math.inf, adapters.WEIGHTS[0])
        if jax.process_index() == 0:
            write_adapter_config(folder, model, bias, tokenizer)


def host_tensors(model: Model, arrays: NamedArrays | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (key, value) of every tensor that a folder of the model holds, one at a time; `arrays` as in `save`."""
    return stored_tensors(named_arrays(model) if arrays is None else arrays)
