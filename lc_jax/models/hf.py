"""Hugging Face checkpoint folders in and out, tensor by tensor: bytes go from the file straight to their shard."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from lc_jax import parallel
from lc_jax.models.registry import FAMILIES, abstract, family_of, flat, kind_of
from lc_jax.models.transformer import Config, Model

NATIVE = "params"  # the folder of a native checkpoint's arrays (native.py)
REWARD_MODEL = "reward_model"  # model_type of a backbone with a scalar head
BACKBONE, HEAD = "backbone_model.", "reward_head."
# Written by old versions of transformers; computed here, not stored.
BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", "attention.rotary_emb.cos_cached")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
WEIGHTS = (
    NATIVE,
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


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


# --- where checkpoints are ---


def check(*paths: str | Path) -> None:
    """Fails early when a local checkpoint is not there or not whole; hub names are not looked up.

    Raises:
      FileNotFoundError: the folder, its config.json or its weights are missing; the message says which.
    """
    for path in map(Path, paths):
        if not str(path) or str(path) == ".":
            raise FileNotFoundError("No checkpoint given: set the config's model path.")
        if not path.is_dir():
            if path.is_absolute() or len(path.parts) != 2 or path.parts[0] in (".", "..", "runs"):
                raise FileNotFoundError(
                    f"No checkpoint folder {path}; run the stage that writes it, or correct the path."
                )
            continue
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} has no config.json; it is not a checkpoint folder.")
        if not any((path / name).exists() for name in WEIGHTS):
            raise FileNotFoundError(f"{path} has no weights: one of {WEIGHTS} is needed.")


def resolve(path: str | Path) -> Path:
    """A local folder as it is; a hub name ("owner/name" or "owner/name@revision") downloaded.

    Raises:
      FileNotFoundError: neither a folder nor a repository that can be reached.
    """
    check(path)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    name, _, revision = str(path).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, ignore_patterns=["*.h5", "*.msgpack", "*.gguf"]))
    except Exception as error:
        raise FileNotFoundError(
            f"{name!r} is no folder, and the hub did not give it ({error}). Accept its licence and log in if it is "
            "gated, or download it elsewhere and pass the folder."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of the (backbone) model; a reward model's own keys stand under "reward_model"."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != REWARD_MODEL:
        return config
    if "backbone_config" in config:
        return config["backbone_config"] | {REWARD_MODEL: True}
    backbone = Path(config["backbone_model_name_or_path"])
    for place in (backbone, folder.parent / backbone.name):
        if (place / "config.json").is_file():
            return json.loads((place / "config.json").read_text()) | {REWARD_MODEL: True}
    raise FileNotFoundError(
        f"{folder}/config.json names its backbone {str(backbone)!r}, which is not there; put that folder beside it."
    )


def has_tokenizer(path: str | Path) -> bool:
    """Whether the local folder holds a tokenizer."""
    return any((Path(path) / name).is_file() for name in TOKENIZER_FILES[:2])


def eos_ids(path: str | Path) -> tuple[int, ...]:
    """End-of-sequence ids of the checkpoint, for use without a tokenizer."""
    return config_of(path)[0].eos_ids


def config_of(path: str | Path, **precision: str) -> tuple[Config, str]:
    """The config of the checkpoint at `path`, and its kind ("causal" or "scalar").

    Raises:
      ValueError: the family, or something that the config asks for, is not implemented.
    """
    raw = read_config(resolve(path))
    if raw.get("model_type") not in FAMILIES:
        raise ValueError(f"{path}/config.json: model_type={raw.get('model_type')!r} is none of {sorted(FAMILIES)}.")
    cls = FAMILIES[raw["model_type"]][1]
    return cls.from_hf(raw, **precision), "scalar" if raw.get(REWARD_MODEL) else "causal"


def stored_dtype(path: str | Path) -> str:
    """The dtype that most tensors of the checkpoint are stored in."""
    return Tensors(resolve(path)).dtype()


# --- in ---


class Tensors:
    """The tensors of a checkpoint folder, read slice by slice.

    Raises:
      FileNotFoundError: no weights, or a file that the index names is missing.
      ValueError: a file is cut short or not safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        elif not (folder / names[0]).is_file():
            raise FileNotFoundError(
                f"{folder} has no model.safetensors. A pytorch_model.bin is a pickle and is not read: open it with "
                "transformers and save_pretrained(..., safe_serialization=True)."
            )
        self._files: dict[str, Any] = {}
        for name in names:
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder}/{name} is missing, but the index names it; download it again.")
            try:
                file = safe_open(folder / name, framework="numpy")
            except Exception as error:
                raise ValueError(f"{folder}/{name} cannot be read ({error}); download it again.") from error
            self._files |= dict.fromkeys(file.keys(), file)

    def keys(self) -> set[str]:
        """Names of all tensors."""
        return set(self._files)

    def slice(self, key: str) -> Any:
        """A lazy tensor: `get_shape()`, and indexing reads only what is asked."""
        return self._files[key].get_slice(key)

    def dtype(self) -> str:
        """The dtype that most tensors are stored in, as numpy names it."""
        names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
        found = [self.slice(key).get_dtype() for key in self.keys()]
        return names[max(set(found), key=found.count)]


def load(
    path: str | Path,
    mesh: jax.sharding.Mesh,
    *,
    kind: str = "causal",
    vocab_size: int | None = None,
    fresh_head: bool = False,
    **precision: str,
) -> Model:
    """The checkpoint at `path`, each shard read straight to its device.

    Args:
      kind: "causal", or "scalar" for a reward or value model; a plain language model gets a fresh, zero head then.
      vocab_size: grow (new rows are the mean of the old) or shrink the embedding to this many rows.
      fresh_head: a zero scalar head even where the checkpoint has one: how a value model starts.
      precision: param_dtype, compute_dtype, remat of `Config`.

    Raises:
      FileNotFoundError: the checkpoint is not there.
      ValueError: tensors are missing, too many, or of other shapes than config.json says; all of them are named.
    """
    folder = resolve(path)
    config, stored_kind = config_of(folder, **precision)
    if kind == "causal" and stored_kind == "scalar":
        raise ValueError(f"{path} is a reward model; a language model is needed here.")
    tensors = Tensors(folder)
    old_vocab_size = config.vocab_size
    config = dataclasses.replace(config, vocab_size=vocab_size or config.vocab_size)
    model = abstract(config, kind, mesh)
    entries = table(config, kind)
    if stored_kind == "causal":  # its keys carry no prefix
        entries = [dataclasses.replace(e, keys=tuple(k.removeprefix(BACKBONE) for k in e.keys)) for e in entries]
    zero = {e.path for e in entries if e.path[0] == "reward_head" and (fresh_head or stored_kind == "causal")}
    shapes = {path: value.shape for path, value in flat(model.params)}
    wanted = [e for e in entries if e.path not in zero]
    _report(folder, tensors, wanted, shapes, (old_vocab_size, config.vocab_size))

    def read(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        entry = next(e for e in entries if e.path == path)
        if entry.path in zero:
            return jax.make_array_from_callback(
                leaf.shape, leaf.sharding, lambda i: np.zeros(leaf.shape, leaf.dtype)[i]
            )
        get = _reader(tensors, entry, leaf, old_vocab_size if _is_vocabulary(entry) else None)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, get)

    arrays = [read(path, leaf) for path, leaf in flat(model.params)]
    return model.with_params(jax.tree.unflatten(jax.tree.structure(model.params), arrays))


def _is_vocabulary(entry: Entry) -> bool:
    return entry.path[-1] == "embedding" or entry.path[-2:] == ("head", "kernel")


def _report(
    folder: Path, tensors: Tensors, entries: Sequence[Entry], shapes: dict, vocabulary: tuple[int, int]
) -> None:
    """Compares files and model, key by key."""
    keys = {key for entry in entries for key in entry.keys}
    extra = {k for k in tensors.keys() - keys if not k.endswith(BUFFERS) and not k.startswith(HEAD)}
    tied = {k for k in extra if k.endswith(("lm_head.weight", "embed_out.weight"))}  # the embedding, written twice
    if not any(_is_vocabulary(e) and e.path[-1] == "kernel" for e in entries):
        extra -= tied
    problems = [f"missing: {key}" for key in sorted(keys - tensors.keys())] + [f"unknown: {k}" for k in sorted(extra)]
    for entry in entries:
        shape = shapes[entry.path][1:] if entry.stacked else shapes[entry.path]
        shape = tuple(reversed(shape)) if entry.transposed else tuple(shape)
        if _is_vocabulary(entry):
            shape = (vocabulary[0], *shape[1:])
        for key in keys & set(entry.keys) & tensors.keys():
            found = tuple(tensors.slice(key).get_shape())
            if found != shape:
                problems.append(f"{key} has shape {list(found)}, config.json asks for {list(shape)}")
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"{folder} does not fit its config.json:\n  " + "\n  ".join(problems[:20]) + more)


def _reader(
    tensors: Tensors, entry: Entry, leaf: jax.ShapeDtypeStruct, old_vocab_size: int | None
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """The callback that reads one shard of a parameter; equal shards are read once."""
    done: dict[str, np.ndarray] = {}

    def matrix(key: str, index: tuple[slice, ...]) -> np.ndarray:
        lazy = tensors.slice(key)
        if old_vocab_size is None:
            part = lazy[tuple(reversed(index))] if entry.transposed else lazy[index]
        else:
            rows, columns = tuple(reversed(index)) if entry.transposed else index
            part = _vocabulary_rows(lazy, rows, columns, old_vocab_size)
        return (part.T if entry.transposed else part).astype(leaf.dtype)

    def get(index: tuple[slice, ...]) -> np.ndarray:
        index = tuple(slice(*s.indices(n)) for s, n in zip(index, leaf.shape, strict=True))
        if str(index) not in done:
            if entry.stacked:
                parts = [matrix(entry.keys[layer], index[1:]) for layer in range(index[0].start, index[0].stop)]
                done[str(index)] = np.stack(parts)
            else:
                done[str(index)] = matrix(entry.keys[0], index)
        return done[str(index)]

    return get


def _vocabulary_rows(lazy: Any, rows: slice, columns: slice, old: int) -> np.ndarray:
    """Rows of an embedding; those past the old vocabulary are the mean of the old rows (Hewitt 2021), in float32."""
    kept = lazy[rows.start : min(rows.stop, old), columns]
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
    tokenizer: Any = None,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers opens: config, safetensors shards, index, generation config, tokenizer.

    Tensors come to the host one at a time; a shard file is held until it is full. The folder appears only when it is
    whole, in the place of an older one.

    Args:
      tokenizer: a transformers tokenizer, or a folder whose tokenizer files are copied.
      dtype: of the files; default the parameters' own.
    """
    with new_folder(Path(path)) as folder:
        _write_shards(folder, model, dtype, max_shard_bytes)
        if jax.process_index() == 0:
            write_configs(folder, model, dtype or model.config.param_dtype, tokenizer)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `path` when all went well and vanishes otherwise.

    On several hosts only process 0's becomes `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        if jax.process_index() == 0:
            _replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def tensors_of(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by its Hugging Face key, on the host one layer at a time."""
    entries = {e.path: e for e in table(model.config, kind_of(model))}
    for path, leaf in flat(model.params):
        entry = entries[path]
        parts = (leaf[i] for i in range(leaf.shape[0])) if entry.stacked else [leaf]
        for key, part in zip(entry.keys, parts, strict=True):
            value = parallel.to_host(part)
            yield key, np.ascontiguousarray(value.T if entry.transposed else value)


def _write_shards(folder: Path, model: Model, dtype: str | None, max_shard_bytes: int) -> dict[str, str]:
    """Writes model*.safetensors and, when there are several, their index. Only process 0 writes."""
    shards: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}

    def flush() -> None:
        shards.append(list(pending))
        if jax.process_index() == 0:
            save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        pending.clear()

    total = 0
    for key, value in tensors_of(model):
        value = value.astype(dtype) if dtype else value
        if pending and sum(v.nbytes for v in pending.values()) + value.nbytes > max_shard_bytes:
            flush()
        pending[key] = value
        total += value.nbytes
    flush()
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
    if jax.process_index() == 0:
        for i, name in enumerate(names, 1):
            (folder / f"shard-{i}").chmod(0o644)
            os.replace(folder / f"shard-{i}", folder / name)
        if len(shards) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return weight_map


def write_configs(folder: Path, model: Model, dtype: str, tokenizer: Any) -> None:
    """config.json, generation_config.json and the tokenizer's files."""
    if isinstance(tokenizer, str | Path):
        for name in TOKENIZER_FILES:
            if (Path(tokenizer) / name).is_file():
                shutil.copy(Path(tokenizer) / name, folder / name)
    elif tokenizer is not None:
        tokenizer.save_pretrained(folder)
    config = model.config.to_hf() | {"dtype": dtype}
    if kind_of(model) == "scalar":
        wrapped = {"architectures": ["RewardModel"], "model_type": REWARD_MODEL, "backbone_config": config}
        (folder / "config.json").write_text(json.dumps(wrapped, indent=2))
        return
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id") if config[key] is not None}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))


def _replace(temporary: Path, path: Path) -> None:
    """Puts the finished folder in the place of `path`; the old one goes only when the new one is there."""
    temporary.chmod(0o755)
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)
