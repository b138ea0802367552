"""Hugging Face checkpoint folders in and out, tensor by tensor: each device reads its own shard from the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from lc_jax.models import tensors as files
from lc_jax.models.config import Config
from lc_jax.models.folders import parse_config, read_config, resolve, write_configs
from lc_jax.models.layout import BACKBONE, BUFFERS, HEAD, SCORE, new_folder
from lc_jax.models.params import (
    NamedArrays,
    ParamSpec,
    named_arrays,
    param_specs,
    stored_tensors,
    tensor_specs,
    with_arrays,
)
from lc_jax.models.registry import FAMILIES, abstract_model, family_of
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
    **precision: str,
) -> tuple[Model, NamedArrays]:
    """Returns the abstract model of a checkpoint, and its parameters, each of which is read when it is drawn.

    Args:
      kind: "causal", or "scalar" for a reward or value model; a plain language model gets a fresh, zero head then.
      vocab_size: grow (new rows are the mean of the old) or shrink the embedding to this many rows.
      fresh_head: a zero scalar head even where the checkpoint has one: how a value model starts.
      precision: param_dtype, compute_dtype, remat of `Config`.

    Raises:
      FileNotFoundError: the checkpoint is not there.
      ValueError: tensors are missing, too many, or of other shapes than config.json says, and all of them are named; or
        a tensor holds NaN or infinities (when it is read), or the checkpoint is quantised.
    """
    folder = resolve(path)
    raw = read_config(folder)
    config, stored_kind = parse_config(raw, folder, **precision)
    if kind == "causal" and stored_kind == "scalar":
        raise ValueError(f"{path} is a reward model; a language model is needed here.")
    tensors = Tensors(folder)
    if config.tied_embeddings and not _is_tied(tensors, config, stored_kind):
        logging.warning("%s: config.json ties the embeddings, but the file holds another head, which is used", folder)
        config = dataclasses.replace(config, tied_embeddings=False)
    old_vocab_size = config.vocab_size
    model = abstract_model(dataclasses.replace(config, vocab_size=vocab_size or old_vocab_size), kind, mesh)
    is_classification = stored_kind == "scalar" and SCORE in tensors.names()

    def as_stored(spec: ParamSpec) -> ParamSpec:
        """The same parameter by the keys of this folder, in which a language model's carry no prefix."""
        keys = spec.hf_keys
        if stored_kind == "causal" or is_classification:
            keys = tuple(key.removeprefix(BACKBONE) for key in keys)
        if is_classification:
            keys = tuple(SCORE if key == HEAD + "weight" else key for key in keys)
        return dataclasses.replace(spec, hf_keys=keys)

    specs = param_specs(model)
    constants: dict[tuple[str, ...], float] = {}  # parameters that the folder does not hold
    if fresh_head or stored_kind == "causal":
        constants = {spec.path: 0.0 for spec in specs if spec.path[0] == "reward_head"}
    if is_classification:
        constants.setdefault(("reward_head", "bias"), float(raw.get("reward_head_bias") or 0.0))
    _check_tensors(folder, tensors, [as_stored(spec) for spec in specs if spec.path not in constants], old_vocab_size)

    def arrays() -> Iterator[tuple[ParamSpec, jax.Array]]:
        for spec in specs:
            if spec.path in constants:
                shard = _constant_shard(spec, constants[spec.path])
            else:
                shard = _shard_reader(tensors, as_stored(spec), old_vocab_size)
            assert spec.sharding is not None  # the model is on a mesh
            yield spec, jax.make_array_from_callback(spec.shape, spec.sharding, shard)

    return model, arrays()


def _is_tied(tensors: Tensors, config: Config, kind: str) -> bool:
    """Returns whether no head is stored, or one that equals the embedding; compared a thousand rows at a time."""
    family = family_of(config)
    prefix = BACKBONE if kind == "scalar" else ""
    keys = prefix + family.KEYS["embedding"], prefix + family.KEYS["head.kernel"]
    if keys[1] not in tensors.names() or keys[0] not in tensors.names():
        return True
    if tensors.shape(keys[0]) != tensors.shape(keys[1]):
        return False
    embedding, head = map(tensors.slice, keys)
    rows = tensors.shape(keys[0])[0]
    blocks = (slice(i, min(i + 1000, rows)) for i in range(0, rows, 1000))
    return all(np.array_equal(embedding[block], head[block]) for block in blocks)


def _check_tensors(folder: Path, tensors: Tensors, specs: Sequence[ParamSpec], vocab_size: int) -> None:
    """Refuses a folder whose tensors differ from `specs`; config.json gives its vocabulary `vocab_size` rows.

    Raises:
      ValueError: names the first 20 tensors that are missing, unknown, or of another shape; or one that is quantised.
    """
    expected, actual = {key for spec in specs for key in spec.hf_keys}, set(tensors.names())
    unknown = {k for k in actual - expected if not k.endswith(BUFFERS) and not k.startswith((HEAD, SCORE))}
    if not any(spec.path[-2:] == ("head", "kernel") for spec in specs):  # tied: the embedding may be written twice
        unknown = {
            k for k in unknown if not k.endswith(tuple(family.KEYS["head.kernel"] for family in FAMILIES.values()))
        }
    odd = {tensors.slice(key).get_dtype() for key in expected & actual} - set(files.FLOATS)
    if odd or any(key.endswith(QUANTISED) for key in unknown):
        names = sorted(key for key in unknown if key.endswith(QUANTISED))[:1] or sorted(odd)
        raise ValueError(f"{folder} is quantised ({names[0]}), which is not read. {files.QUANTISED}")
    problems = [f"missing: {k}" for k in sorted(expected - actual)] + [f"unknown: {k}" for k in sorted(unknown)]
    for spec in specs:
        shape = (vocab_size, *spec.hf_shape[1:]) if spec.is_vocabulary else spec.hf_shape
        for key in spec.hf_keys:
            if key in actual and tensors.shape(key) != shape:
                problems.append(f"{key} has shape {list(tensors.shape(key))}, config.json asks for {list(shape)}")
    problems = list(dict.fromkeys(problems))  # a tensor of several parameters is named once
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"{folder} does not fit its config.json:\n  " + "\n  ".join(problems[:20]) + more)


def _constant_shard(spec: ParamSpec, number: float) -> Callable[[Any], np.ndarray]:
    """Returns the callback that fills one shard of a parameter."""
    values = np.full(spec.shape, number, spec.dtype)
    return lambda index: values[index]


def _shard_reader(tensors: Tensors, spec: ParamSpec, old_vocab_size: int) -> Callable[[Any], np.ndarray]:
    """Returns the callback that reads one shard of a parameter; equal shards are read once."""
    shards: dict[str, np.ndarray] = {}

    def matrix(key: str, index: tuple[slice, ...]) -> np.ndarray:
        lazy, index = tensors.slice(key), index[::-1] if spec.transposed else index
        if spec.rows is not None:
            index = (slice(spec.rows[0] + index[0].start, spec.rows[0] + index[0].stop), *index[1:])
        part = _vocabulary_rows(lazy, index[0], index[1], old_vocab_size) if spec.is_vocabulary else lazy[index]
        check_values(tensors.folder, key, part)
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
    """Returns the dtype that most tensors of the checkpoint are stored in."""
    return Tensors(resolve(path)).dtype()


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

    Tensors come to the host one at a time. The folder appears only when it is complete, in place of an older one.

    Args:
      arrays: the parameters of an abstract `model` (see `read`); default its own.
      tokenizer: what writes its own files (data.tokenizer.Tokenizer), or a folder whose files are copied: tokenizer,
        chat templates and generation_config.json.
      dtype: of the files; default the parameters' own.
    """
    dtype = dtype or model.config.param_dtype
    with new_folder(Path(path)) as folder:
        values = ((key, value.astype(dtype)) for key, value in host_tensors(model, arrays))
        files.write(folder, tensor_specs(model, dtype), values, max_shard_bytes)
        if jax.process_index() == 0:
            write_configs(folder, model, dtype, tokenizer)


def host_tensors(model: Model, arrays: NamedArrays | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (key, value) of every tensor that a folder of the model holds, one at a time; `arrays` as in `save`."""
    return stored_tensors(named_arrays(model) if arrays is None else arrays)
