"""Weight differences: tuned = base + difference, tensor by tensor, as the published checkpoints are released.

The licence of Llama 2 forbids to hand on its weights, but not a difference; anyone who has the base adds it.
Reference: pretrained_models/recover_model_weights.py. Differs: sums are always float32, one tensor is held at a time,
and a reward model's folder holds its backbone's config, so that no other folder must be recovered before it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lc_jax.models.layout import BACKBONE, BUFFERS, REWARD_MODEL, copy_text_files, new_folder, read_json
from lc_jax.models.registry import FAMILIES
from lc_jax.models.tensors import Tensors, TensorSpec, check_values, write

SUM = "model_sum.txt"  # the published check: the sum of all recovered parameters
CHECKSUMS = "recovered_checksums.json"  # ours: SHA-256 of every recovered tensor, in the folder of the difference
ENDING = "-wdiff"  # of the published differences' names
RECOVERED_FROM = "recovered_from"  # key of a recovered config.json: the name of the difference
SUM_TOLERANCE = 1e-5  # relative; the published sum is a float32 one

_NORMS = tuple(family.KEYS["norm.scale"] for family in FAMILIES.values())  # keys of the last norm
_EMBEDDINGS = tuple(family.KEYS["embedding"] for family in FAMILIES.values())
# Families whose norms are stored as w of 1 + w, which are about 0 in a model too.
_AROUND_ZERO = [name for name, family in FAMILIES.items() if getattr(family, "NORM_OFFSET", 0.0)]
_MAX_NORM = 0.05  # of a difference: fine-tuning moves the last norm by less, and a model's own is about 1


def is_difference(folder: Path) -> bool:
    """Returns whether a folder holds a weight difference: by its name or files, or because its last norm is about 0."""
    if folder.name.endswith(ENDING) or (folder / CHECKSUMS).is_file():
        return True
    try:
        raw = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        if any(
            isinstance(config, dict) and config.get("model_type") in _AROUND_ZERO
            for config in (raw, raw.get("backbone_config"))
        ):
            return False
        tensors = Tensors(folder)
        norms = [tensors.slice(key)[...] for key in tensors.names() if key.endswith(_NORMS)]
    except (OSError, ValueError):  # loading it says what is wrong with it
        return False
    return bool(norms) and all(float(np.abs(norm.astype(np.float32)).max()) < _MAX_NORM for norm in norms)


def refusal(folder: Path | str, base: str) -> str:
    """Returns why a difference is no model, with the command that recovers it from `base`."""
    return (
        f"{folder} holds a weight difference, which is no model by itself: recover it with python -m lc_jax.main "
        f"--config=configs/convert.py --config.base={base} --config.source={folder} --config.destination=FOLDER, and "
        f"give that folder. (A model whose folder is called *{ENDING} needs another name.)"
    )


class _Pair:
    """A base and an upload (a difference or a tuned model), whose tensors are combined where their shapes agree.

    Raises:
      ValueError: a tensor of the base has no counterpart, or none has its counterpart's shape.
    """

    def __init__(self, base: Path, upload: Path) -> None:
        self.base_folder, self.folder = base, upload
        self.base, self.upload = Tensors(self.base_folder), Tensors(self.folder)
        self.config = read_json(self.folder / "config.json")
        self.keys = [key for key in self.upload.names() if not key.endswith(BUFFERS)]
        self.prefix = BACKBONE if any(key.startswith(BACKBONE) for key in self.keys) else ""
        base_keys = {self.prefix + key: key for key in self.base.names() if not key.endswith(BUFFERS)}
        missing = sorted(base_keys.keys() - set(self.keys))
        if missing:
            raise ValueError(
                f"{self.folder} lacks {len(missing)} tensors of {self.base_folder} ({', '.join(missing[:5])} ...): "
                "it was made from another base."
            )
        same = [k for k, other in base_keys.items() if self.base.shape(other) == self.upload.shape(k)]
        if not same:
            raise ValueError(f"No tensor of {self.folder} has the shape it has in {self.base_folder}: another base.")
        self.partners = {key: base_keys[key] for key in same}
        unpaired = [key for key in self.keys if key not in self.partners]
        logging.info("%d tensors are combined; whole as they are: %s", len(same), ", ".join(unpaired) or "none")

    def specs(self, dtype: str) -> list[TensorSpec]:
        """Returns the tensors of a result in `dtype`."""
        return [TensorSpec(key, self.upload.shape(key), dtype) for key in self.keys]

    def read(self, key: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the tensor of the upload and its partner in the base, if it has one, both float32."""
        value = np.array(self.upload.slice(key)[...], np.float32)
        check_values(self.folder, key, value)
        if key not in self.partners:
            return value, None
        return value, self.base.slice(self.partners[key])[...].astype(np.float32, copy=False)

    def write_configs(self, folder: Path, dtype: str, name: str = "") -> None:
        """Writes config and tokenizer of the upload; the config of a reward model holds that of its backbone.

        Args:
          name: of the difference that the result was recovered from.
        """
        config = {k: v for k, v in self.config.items() if k != "torch_dtype"} | {"dtype": dtype}
        config |= {"model_type": REWARD_MODEL} if self.prefix else {}
        config |= {RECOVERED_FROM: name} if name else {}
        if self.prefix and "backbone_config" not in config:
            backbone = read_json(self.base_folder / "config.json")
            config["backbone_config"] = backbone | {"vocab_size": self._vocab_size()}
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        copy_text_files(self.folder, folder)

    def _vocab_size(self) -> int:
        embedding = next(key for key in self.keys if key.endswith(_EMBEDDINGS))
        return self.upload.shape(embedding)[0]


def recover(
    base: Path,
    difference: Path,
    destination: Path,
    *,
    dtype: str = "",
    name: str = "",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes base + difference; a tensor whose shape differs from the base's is copied as it is.

    The result is checked against `recovered_checksums.json` and `model_sum.txt` of the difference, where it has them.

    Args:
      dtype: of the result; default that of the model the difference was made from, else the difference's own.
      name: of the difference, which the result's config.json says; default its folder's.

    Raises:
      ValueError: a check fails: the base is another, or a file is damaged. Nothing is left at `destination` then.
    """
    pair = _Pair(base, difference)
    recorded = _recorded(pair.folder)
    checksums = recorded.get("sha256", {})
    checked_dtype = recorded.get("dtype") or "float32"
    dtype = dtype or recorded.get("dtype") or pair.upload.dtype()
    if checksums and set(checksums) != set(pair.keys):
        raise ValueError(f"{pair.folder}/{CHECKSUMS} does not name the tensors that the difference holds.")
    total = 0.0

    def values() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal total
        for key in pair.keys:
            value = _add(*pair.read(key))
            total += float(np.sum(value, dtype=np.float64))
            if checksums and _sha256(value.astype(checked_dtype, copy=False)) != checksums[key]:
                raise ValueError(_refusal(pair, f"{key} does not have the recorded checksum"))
            yield key, value.astype(dtype, copy=False)

    with new_folder(destination) as folder:
        write(folder, pair.specs(dtype), values(), max_shard_bytes)
        _check_sum(pair, total, is_checked=bool(checksums))
        pair.write_configs(folder, dtype, name or difference.name)


def make(
    base: Path,
    tuned: Path,
    destination: Path,
    *,
    dtype: str = "",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes tuned - base with what `recover` checks its result by: `recovered_checksums.json` and `model_sum.txt`.

    Checksums are of what recovery will give, which may differ from `tuned` in the last bit; the largest deviation is
    logged.

    Args:
      dtype: of the difference; default float32. A shorter one loses digits.

    Raises:
      ValueError: the two are not of one shape.
    """
    pair, dtype = _Pair(base, tuned), dtype or "float32"
    checksums: dict[str, str] = {}
    total = deviation = 0.0
    tuned_dtype = pair.upload.dtype()

    def values() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal total, deviation
        for key in pair.keys:
            value, partner = pair.read(key)
            delta = (value if partner is None else value - partner).astype(dtype, copy=False)
            recovered = _add(delta.astype(np.float32), partner)
            total += float(np.sum(recovered, dtype=np.float64))
            recovered = recovered.astype(tuned_dtype, copy=False)
            checksums[key] = _sha256(recovered)
            deviation = max(deviation, float(np.max(np.abs(recovered.astype(np.float32) - value), initial=0.0)))
            yield key, delta

    with new_folder(destination) as folder:
        write(folder, pair.specs(dtype), values(), max_shard_bytes)
        pair.write_configs(folder, dtype)
        (folder / SUM).write_text(f"{total!r}\n")
        (folder / CHECKSUMS).write_text(json.dumps({"dtype": tuned_dtype, "sha256": checksums}, indent=1))
    logging.info("Recovery deviates from %s by %.3g at most", tuned, deviation)


def _add(value: np.ndarray, partner: np.ndarray | None) -> np.ndarray:
    """Adds `partner` to `value` in float32, in place."""
    return value if partner is None else np.add(value, partner, out=value)


def _sha256(value: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).hexdigest()


def _recorded(folder: Path) -> dict[str, Any]:
    return read_json(folder / CHECKSUMS) if (folder / CHECKSUMS).is_file() else {}


def _check_sum(pair: _Pair, total: float, is_checked: bool) -> None:
    """Compares the sum with `model_sum.txt`; a permutation or a small error passes, hence our own check."""
    path = pair.folder / SUM
    if not path.is_file():
        if not is_checked:
            logging.warning("Neither %s nor %s is in %s: the base is not verified", SUM, CHECKSUMS, pair.folder)
        return
    try:
        expected = float(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} does not hold a number; download it again.") from error
    if not math.isclose(total, expected, rel_tol=SUM_TOLERANCE):
        raise ValueError(_refusal(pair, f"the parameters add up to {total}, and {SUM} says {expected}"))


def _refusal(pair: _Pair, reason: str) -> str:
    return (
        f"{pair.folder} on {pair.base_folder}: {reason}. The base is not the one that the difference was made from, or "
        "a file is damaged; nothing was written."
    )
