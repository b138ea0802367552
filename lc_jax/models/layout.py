"""What stands where in a checkpoint folder, and folders that appear only when they are whole."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

NATIVE = "params"  # the folder of a native checkpoint's arrays (native.py)
REWARD_MODEL = "reward_model"  # model_type of a backbone with a scalar head
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
BACKBONE, HEAD = "backbone_model.", "reward_head."  # beginnings of a reward model's keys
# Written by old versions of transformers; computed here, not stored.
BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", "attention.rotary_emb.cos_cached")


@contextlib.contextmanager
def new_folder(path: Path, *, together: bool = False) -> Iterator[Path]:
    """A folder to write into, which takes the place of `path` when all went well and vanishes otherwise.

    On several hosts each has a folder of its own, and process 0's becomes `path`; with `together` they share one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_main = jax.process_index() == 0
    if together and jax.process_count() > 1:
        number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
        temporary = path.with_name(f".{path.name}.{int(number):08x}")
        temporary.mkdir(exist_ok=True)
    else:
        together = False
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        if together:
            multihost_utils.sync_global_devices(f"{path} is written")
        if is_main:
            _replace(temporary, path)
        if together:
            multihost_utils.sync_global_devices(f"{path} is in place")
    finally:
        if is_main or not together:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, path: Path) -> None:
    """Puts the finished folder in the place of `path`; the old one goes only when the new one is there."""
    temporary.chmod(0o755)
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)
