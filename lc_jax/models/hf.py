"""Hugging Face checkpoint folders in and out, tensor by tensor: bytes go from the file straight to their shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from lc_jax import parallel
from lc_jax.models import tensors as files
from lc_jax.models.folders import config_of, read_config, resolve, write_configs
from lc_jax.models.layout import BACKBONE, BUFFERS, HEAD, SCORE, new_folder
from lc_jax.models.registry import abstract, family_of, flat, kind_of
from lc_jax.models.tensors import Spec, Tensors, check_values
from lc_jax.models.transformer import Config, Model

# Endings of what quantised checkpoints store next to, or in place of, their weights.
QUANTISED = ("weight_scale", "weight_scale_inv", "qweight", "qzeros", "absmax", "weight_packed", "SCB", "quant_map")


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one parameter stands in the files."""

    path: tuple[str, ...]  # in the nnx state
    keys: tuple[str, ...]  # one tensor, or one a layer
    stacked: bool  # the parameter's first dimension is the layer
    transposed: bool  # [in, out] here, [out, in] there


def table(config: Config, kind: str) -> list[Entry]:
    """Every parameter of the model with its keys, in the module's order."""
    family, _ = family_of(config)
    entries = []
    for names, _ in flat(abstract(config, kind).params):
        scalar = kind == "scalar" and names[0] == "reward_head"
        inner = names[1:] if kind == "scalar" else names
        key = HEAD + inner[0] if scalar else family.KEYS[".".join(inner)]
        prefix = BACKBONE if kind == "scalar" and not scalar else ""
        stacked = "{}" in key
        keys = tuple(prefix + key.format(i) for i in range(config.num_layers)) if stacked else (prefix + key,)
        entries.append(Entry(names, keys, stacked, names[-1] == "kernel"))
    return entries


def stored_dtype(path: str | Path) -> str:
    """The dtype that most tensors of the checkpoint are stored in."""
    return Tensors(resolve(path)).dtype()


# --- in ---


def load(path: str | Path, mesh: jax.sharding.Mesh, **settings: Any) -> Model:
    """The checkpoint at `path`, each shard read straight to its device; arguments and errors are those of `read`."""
    model, arrays = read(path, mesh, **settings)
    return model.with_params(jax.tree.unflatten(jax.tree.structure(model.params), list(arrays)))


def read(
    path: str | Path,
    mesh: jax.sharding.Mesh,
    *,
    kind: str = "causal",
    vocab_size: int | None = None,
    fresh_head: bool = False,
    **precision: str,
) -> tuple[Model, Iterator[jax.Array]]:
    """The abstract model of a checkpoint, and its parameters in order, each read when it is drawn.

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
    config, stored_kind = config_of(folder, **precision)
    if kind == "causal" and stored_kind == "scalar":
        raise ValueError(f"{path} is a reward model; a language model is needed here.")
    tensors = Tensors(folder)
    if config.tied_embeddings and not _is_tied(tensors, config, stored_kind):
        logging.warning("%s: config.json ties the embeddings, but the file holds another head, which is used", folder)
        config = dataclasses.replace(config, tied_embeddings=False)
    old_vocab_size = config.vocab_size
    config = dataclasses.replace(config, vocab_size=vocab_size or config.vocab_size)
    model = abstract(config, kind, mesh)
    entries = table(config, kind)
    if stored_kind == "causal":  # its keys carry no prefix
        entries = [dataclasses.replace(e, keys=tuple(k.removeprefix(BACKBONE) for k in e.keys)) for e in entries]
    constants = {e.path: 0.0 for e in entries if e.path[0] == "reward_head" and (fresh_head or stored_kind == "causal")}
    if stored_kind == "scalar" and SCORE in tensors.names():  # transformers' sequence classification
        entries = [dataclasses.replace(e, keys=tuple(map(_classification_key, e.keys))) for e in entries]
        constants.setdefault(("reward_head", "bias"), float(read_config(folder).get("reward_head_bias") or 0.0))
    shapes = {path: value.shape for path, value in flat(model.params)}
    wanted = [e for e in entries if e.path not in constants]
    _report(folder, tensors, wanted, shapes, (old_vocab_size, config.vocab_size))

    def array(entry: Entry, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if entry.path in constants:
            whole = np.full(leaf.shape, constants[entry.path], leaf.dtype)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda i: whole[i])
        get = _reader(tensors, entry, leaf, old_vocab_size if _is_vocabulary(entry) else None)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, get)

    leaves = [leaf for _, leaf in flat(model.params)]  # in the order of `table`
    return model, (array(entry, leaf) for entry, leaf in zip(entries, leaves, strict=True))


def _is_tied(tensors: Tensors, config: Config, kind: str) -> bool:
    """Whether no head is stored, or one that equals the embedding; compared a thousand rows at a time."""
    family, _ = family_of(config)
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


def _classification_key(key: str) -> str:
    return SCORE if key == HEAD + "weight" else key.removeprefix(BACKBONE)


def _is_vocabulary(entry: Entry) -> bool:
    return entry.path[-1] == "embedding" or entry.path[-2:] == ("head", "kernel")


def _report(
    folder: Path, tensors: Tensors, entries: Sequence[Entry], shapes: dict, vocabulary: tuple[int, int]
) -> None:
    """Compares files and model, key by key."""
    keys, stored = {key for entry in entries for key in entry.keys}, set(tensors.names())
    extra = {k for k in stored - keys if not k.endswith(BUFFERS) and not k.startswith((HEAD, SCORE))}
    tied = {k for k in extra if k.endswith(("lm_head.weight", "embed_out.weight"))}  # the embedding, written twice
    if not any(_is_vocabulary(e) and e.path[-1] == "kernel" for e in entries):
        extra -= tied
    odd = {tensors.slice(key).get_dtype() for key in keys & stored} - set(files.FLOATS)
    if odd or any(key.endswith(QUANTISED) for key in extra):
        names = sorted(key for key in extra if key.endswith(QUANTISED))[:1] or sorted(odd)
        raise ValueError(f"{folder} is quantised ({names[0]}), which is not read. {files.QUANTISED}")
    problems = [f"missing: {key}" for key in sorted(keys - stored)] + [f"unknown: {k}" for k in sorted(extra)]
    for entry in entries:
        shape = shapes[entry.path][1:] if entry.stacked else shapes[entry.path]
        shape = tuple(reversed(shape)) if entry.transposed else tuple(shape)
        if _is_vocabulary(entry):
            shape = (vocabulary[0], *shape[1:])
        for key in keys & set(entry.keys) & stored:
            found = tensors.shape(key)
            if found != shape:
                problems.append(f"{key} has shape {list(found)}, config.json asks for {list(shape)}")
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"{folder} does not fit its config.json:\n  " + "\n  ".join(problems[:20]) + more)


def _reader(
    tensors: Tensors, entry: Entry, leaf: jax.ShapeDtypeStruct, old_vocab_size: int | None
) -> Callable[[Any], np.ndarray]:
    """The callback that reads one shard of a parameter; equal shards are read once."""
    done: dict[str, np.ndarray] = {}

    def matrix(key: str, index: tuple[slice, ...]) -> np.ndarray:
        lazy = tensors.slice(key)
        if old_vocab_size is None:
            part = lazy[tuple(reversed(index))] if entry.transposed else lazy[index]
        else:
            rows, columns = tuple(reversed(index)) if entry.transposed else index
            part = _vocabulary_rows(lazy, rows, columns, old_vocab_size)
        check_values(tensors.folder, key, part)
        return (part.T if entry.transposed else part).astype(leaf.dtype)

    def get(index: tuple[slice, ...]) -> np.ndarray:
        index = tuple(slice(*s.indices(n)) for s, n in zip(index, leaf.shape, strict=True))
        if str(index) not in done:
            if entry.stacked:
                whole = done[str(index)] = np.empty([s.stop - s.start for s in index], leaf.dtype)
                for slot, key in zip(whole, entry.keys[index[0]], strict=True):
                    slot[...] = matrix(key, index[1:])
            else:
                done[str(index)] = matrix(entry.keys[0], index)
        return done[str(index)]

    return get


def _vocabulary_rows(lazy: Any, rows: slice, columns: slice, old: int) -> np.ndarray:
    """Rows of an embedding; those past the old vocabulary are the mean of the old rows (Hewitt 2021), in float32."""
    kept = lazy[min(rows.start, old - 1) : min(rows.stop, old), columns][: max(0, old - rows.start)]
    if rows.stop <= old:
        return kept
    mean = np.mean(lazy[:old, columns].astype(np.float32), axis=0, keepdims=True)
    new = np.repeat(mean, rows.stop - max(rows.start, old), axis=0).astype(kept.dtype)
    return np.concatenate([kept, new])


# --- out ---


def save(
    path: str | Path,
    model: Model,
    *,
    arrays: Iterable[jax.Array] | None = None,
    tokenizer: Any = None,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers opens: config, safetensors shards, index, generation config, tokenizer.

    Tensors come to the host one at a time. The folder appears only when it is whole, in the place of an older one.

    Args:
      arrays: the parameters of an abstract `model` in order, drawn one at a time (see `read`); default its own.
      tokenizer: what writes its own files (data.tokenizer.Tokenizer), or a folder whose files are copied: tokenizer,
        chat templates and generation_config.json.
      dtype: of the files; default the parameters' own.
    """
    dtype = dtype or model.config.param_dtype
    with new_folder(Path(path)) as folder:
        values = (value.astype(dtype) for _, value in tensors_of(model, arrays))
        files.write(folder, specs_of(model, dtype), values, max_shard_bytes)
        if jax.process_index() == 0:
            write_configs(folder, model, dtype, tokenizer)


def specs_of(model: Model, dtype: str) -> list[Spec]:
    """Keys, shapes and dtype of what `tensors_of` gives; of an abstract model as well."""
    specs = []
    for entry, (_, leaf) in zip(table(model.config, kind_of(model)), flat(model.params), strict=True):
        shape = leaf.shape[1:] if entry.stacked else leaf.shape
        specs += [Spec(key, shape[::-1] if entry.transposed else shape, dtype) for key in entry.keys]
    return specs


def tensors_of(model: Model, arrays: Iterable[jax.Array] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by its Hugging Face key, on the host one layer at a time; `arrays` as in `save`."""
    arrays = jax.tree.leaves(model.params) if arrays is None else arrays
    for entry, array in zip(table(model.config, kind_of(model)), arrays, strict=True):
        parts = (array[i] for i in range(array.shape[0])) if entry.stacked else [array]
        for key, part in zip(entry.keys, parts, strict=True):
            value = parallel.to_host(part)
            yield key, np.ascontiguousarray(value.T if entry.transposed else value)
