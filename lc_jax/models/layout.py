"""File names of checkpoint folders, and folders that appear only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

REWARD_MODEL = "reward_model"  # model_type of a backbone with a scalar head
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
CHAT_TEMPLATES = "additional_chat_templates"  # folder of further templates, by name
GENERATION = "generation_config.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLES = "pytorch_model*.bin"  # read only where there are no safetensors, and only with torch
SCORE = "score.weight"  # a reward model's head as transformers' sequence classification names it
ADAPTER = "adapter_config.json"  # of a low-rank adapter, which is no model by itself
_FULL = os.strerror(errno.ENOSPC)
_LFS = b"version https://git-lfs"  # how the text begins that git-lfs keeps in the place of a file
BACKBONE, HEAD = "backbone_model.", "reward_head."  # beginnings of a reward model's keys
# Written by old versions of transformers; computed here, not stored.
BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", "attention.rotary_emb.cos_cached")


def check_file(path: Path) -> None:
    """Refuses a file that is empty, or in the place of which git-lfs wrote a pointer.

    Raises:
      ValueError: it is one of these.
    """
    with open(path, "rb") as file:
        start = file.read(len(_LFS))
    if not start:
        raise ValueError(f"{path} is empty; download it again.")
    if start == _LFS:
        raise ValueError(f"{path} is a git-lfs pointer, not the file: fetch the file (`git lfs pull`).")


def check_torch(name: str | Path) -> None:
    """Refuses a checkpoint that is stored as torch pickles where torch, which reads them, is not installed.

    Raises:
      ValueError: names the checkpoint and the remedies.
    """
    if importlib.util.find_spec("torch") is None:
        raise ValueError(
            f"{name} is a torch pickle: pip install torch, or convert it to safetensors where torch is installed "
            "(transformers: from_pretrained, then save_pretrained)."
        )


def read_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
      ValueError: the file is no JSON object in UTF-8, or only points to one.
    """
    check_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not JSON in UTF-8 ({error}); download it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not a JSON object; download it again.")
    return value


def token_ids(ids: Any, where: str) -> tuple[int, ...]:
    """Returns token ids that a config file writes as an id, a list of ids or nothing.

    Raises:
      ValueError: it is something else.
    """
    listed = [] if ids is None else ids if isinstance(ids, list) else [ids]
    if any(type(i) is not int or i < 0 for i in listed):
        raise ValueError(f"{where}: a token id is an integer of 0 or more, or a list of them, not {ids!r}.")
    return tuple(listed)


def copy_text_files(source: Path, folder: Path) -> None:
    """Copies what a checkpoint holds for text: tokenizer, chat templates, sampling defaults."""
    for name in (*TOKENIZER_FILES, GENERATION):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    if (source / CHAT_TEMPLATES).is_dir():
        shutil.copytree(source / CHAT_TEMPLATES, folder / CHAT_TEMPLATES)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to write into, which replaces `path` on success and is removed otherwise.

    On several hosts each has a folder of its own, and process 0's becomes `path`.

    Raises:
      OSError: the disk is full, or its quota is used up; the message names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        if jax.process_index() == 0:
            _replace(temporary, path)
    except Exception as error:  # the Rust writers of tokenizers raise bare ones
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and _FULL not in str(error):
            raise
        raise OSError(
            f"{path} is not written: {error}. Free some space and run the same command again, or name another place."
        ) from error
    finally:
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
