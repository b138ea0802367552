"""Tensors in files: checkpoint folders read slice by slice, safetensors files written tensor by tensor."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
import numpy as np
from absl import logging
from safetensors import safe_open

from lc_jax.models.layout import check_file, check_torch, read_json

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # ending of the file that says which file holds which tensor
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64", "I64": "int64", "BOOL": "bool"}
FLOATS = ("F32", "BF16", "F16", "F64")
QUANTISED = "Give the original, or dequantise it with transformers (model.dequantize(), then save_pretrained)."
CODES = {name: code for code, name in DTYPES.items()}


# --- in ---


class Tensors:
    """The tensors of a checkpoint folder, read slice by slice from safetensors or, with torch, from pytorch_model.bin.

    Args:
      names: of a file of safetensors and of a pickle, one of which has the tensors.

    Raises:
      FileNotFoundError: no weights, or a file that the index names is missing.
      ValueError: a file is cut short or not what its name says, or it needs torch, which is not installed.
    """

    def __init__(self, folder: Path, names: Sequence[str] = (SAFETENSORS, PICKLE)) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        for name in _names(folder, names):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder}/{name} is missing, but the index names it; download it again.")
            file = _open(folder / name)
            self._files |= dict.fromkeys(file.keys(), file)

    def names(self) -> list[str]:
        """Returns the names of all tensors, in the order of the files."""
        return list(self._files)

    def slice(self, key: str) -> Any:
        """Returns a lazy tensor with `get_shape()`; indexing reads the slice alone."""
        return self._files[key].get_slice(key)

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, without reading it."""
        return tuple(self.slice(key).get_shape())

    def dtype(self) -> str:
        """Returns the dtype of most tensors, as numpy names it."""
        dtypes = [self.slice(key).get_dtype() for key in self.names()]
        most = max(sorted(set(dtypes)), key=dtypes.count, default="none")
        if most not in DTYPES:
            raise ValueError(f"{self.folder}: its tensors are stored as {most}, which is not read. {QUANTISED}")
        return DTYPES[most]


# Bits of the exponent, which are all set in NaN and infinities alone.
_EXPONENTS = {"float32": 0x7F800000, "float64": 0x7FF0000000000000, "float16": 0x7C00, "bfloat16": 0x7F80}
_BLOCK = 1 << 18  # values that are checked at once: what is computed of them stays in the processor's cache


def check_values(folder: Path, key: str, values: np.ndarray) -> None:
    """Refuses a tensor that is not finite.

    Raises:
      ValueError: NaN or an infinity is in `values`; the message names the tensor.
    """
    mask = _EXPONENTS.get(str(values.dtype))
    if mask is None:
        return
    bits = np.ascontiguousarray(values).reshape(-1).view(f"u{values.dtype.itemsize}")
    blocks = (bits[first : first + _BLOCK] for first in range(0, len(bits), _BLOCK))
    if any(((block & bits.dtype.type(mask)) == mask).any() for block in blocks):
        raise ValueError(
            f"{folder}: {key} holds NaN or infinities; the training diverged or the file is damaged: take an earlier "
            "checkpoint, or download it again."
        )


def _names(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns the weight files of a folder: safetensors before pickles, one file before an index (as transformers)."""
    for name in names:
        index = folder / (name + INDEX)
        if (folder / name).is_file():
            if index.is_file():
                logging.warning("%s holds %s and %s: the former is read, as in transformers", folder, name, index.name)
            return [name]
        if index.is_file():
            files = read_json(index).get("weight_map")
            if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
                raise ValueError(f"{index} has no weight_map of tensors to files; download it again.")
            return sorted(set(files.values()))
    raise FileNotFoundError(f"{folder} has neither {' nor '.join(names)}.")


def _open(path: Path) -> Any:
    check_file(path)
    if path.suffix == ".bin":
        return _Pickle(path)
    try:
        return safe_open(path, framework="numpy")
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); download it again.") from error


class _Pickle:
    """A pytorch_model.bin as safetensors gives its files. Torch reads tensors alone: code in the file is rejected."""

    def __init__(self, path: Path) -> None:
        check_torch(path)
        import torch

        try:
            # Mapped, so that only what is used is read; files of before torch 1.6 are no archives and are read whole.
            mapped = zipfile.is_zipfile(path)
            self._tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} cannot be read as tensors ({reason}); download it again.") from error

    def keys(self) -> Iterable[str]:
        return self._tensors.keys()

    def get_slice(self, key: str) -> _PickleSlice:
        return _PickleSlice(self._tensors[key])


@dataclasses.dataclass(frozen=True)
class _PickleSlice:
    tensor: Any

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        name = str(self.tensor.dtype).removeprefix("torch.")
        return CODES.get(name, name)

    def __getitem__(self, index: Any) -> np.ndarray:
        part = self.tensor[index]
        if self.get_dtype() != "BF16":
            return part.numpy()
        import torch

        return part.view(torch.int16).numpy().view("bfloat16")  # torch gives numpy no bfloat16


# --- out ---


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A tensor that will be written."""

    key: str
    shape: tuple[int, ...]
    dtype: str  # as numpy names it

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def write(
    folder: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, np.ndarray]],
    max_shard_bytes: float,
    name: str = SAFETENSORS,
) -> None:
    """Writes the file `name` or several, as "model-00001-of-00002.safetensors", with their index; one tensor at a time.

    Args:
      specs: all tensors, in order: headers and sizes of the files follow from them before any value is there.
      tensors: (key, value) of each in the same order, drawn when it is written. On several hosts all draw and process 0
        writes.
    """
    shards: list[list[TensorSpec]] = [[]]
    for spec in specs:
        if shards[-1] and sum(s.nbytes for s in shards[-1]) + spec.nbytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(spec)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else [name]
    source, is_writer = iter(tensors), jax.process_index() == 0
    for file_name, shard in zip(names, shards, strict=True):
        with open(folder / file_name if is_writer else os.devnull, "wb") as file:
            header, starts = _header(shard)
            file.write(header)
            for spec in shard:
                file.seek(len(header) + starts[spec.key])
                key, value = next(source)
                assert key == spec.key, f"{key} comes in the place of {spec.key}"
                _write_tensor(file, spec, value)
    if len(shards) > 1 and is_writer:
        index = {
            "metadata": {"total_size": sum(spec.nbytes for spec in specs)},
            "weight_map": {
                spec.key: file_name for file_name, shard in zip(names, shards, strict=True) for spec in shard
            },
        }
        (folder / (SAFETENSORS + INDEX)).write_text(json.dumps(index, indent=2))


def _header(shard: Sequence[TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """Returns the start of a safetensors file, and the offset after it of each tensor's data.

    Laid out as the safetensors library does it, wide dtypes first and then by name, so that files are equal to its own.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for spec in sorted(shard, key=lambda spec: (-np.dtype(spec.dtype).itemsize, spec.key)):
        starts[spec.key], end = end, end + spec.nbytes
        entries[spec.key] = {"dtype": CODES[spec.dtype], "shape": spec.shape, "data_offsets": [starts[spec.key], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts


def _write_tensor(file: IO[bytes], spec: TensorSpec, value: np.ndarray) -> None:
    assert (value.shape, value.dtype) == (spec.shape, np.dtype(spec.dtype)), f"{spec}: {value.dtype}{value.shape}"
    file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
