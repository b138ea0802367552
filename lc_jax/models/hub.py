"""Checkpoints by their hub name: downloaded, and the published weight differences recovered."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import logging

from lc_jax.models import difference
from lc_jax.models.layout import PICKLES, check_torch

BASE = "meta-llama/Llama-2-7b-hf"
# The released checkpoints, each with the question (of prompts.Templates) that it was trained on.
RELEASED = {
    "lc-sft": "paragraph",
    "factuality-sft": "paragraph",
    "claude-distill": "paragraph",
    "lc-rl": "paragraph",
    "factuality-rl": "paragraph",
    "reward-model-forecastprobs": "forecast_probs",
    "reward-model-factuality": "factuality",
    "extract-answers": "extract_answers",
}
_WHOLE = ("extract-answers",)  # all others are weight differences from BASE, whose hub names end in DIFFERENCE
_PREFIX = "tatsu-lab/linguistic-calibration-"
_TEXTS = ["*.json", "*.txt", "*.jinja", "*.model"]
_FILES = [*_TEXTS, "model*.safetensors", "adapter_model.safetensors"]
_PICKLES = [PICKLES, "adapter_model.bin"]  # downloaded only where there are no safetensors
PICKLED = ("togethercomputer/RedPajama-INCITE-Base-3B-v1",)  # without safetensors


def released(name: str) -> str:
    """Returns the key in RELEASED of a hub name, written with or without "-wdiff" and "@revision"; "" for any other."""
    short = name.partition("@")[0].removesuffix(difference.ENDING)
    key = short.removeprefix(_PREFIX)
    return key if short.startswith(_PREFIX) and key in RELEASED else ""


def is_name(path: str | Path) -> bool:
    """Returns whether `path` is no folder and has the form of a hub name: "owner/name" or "owner/name@revision"."""
    path = Path(path)
    is_relative = not path.is_absolute() and path.parts[:1] not in ((".",), ("..",), ("runs",))
    return is_relative and len(path.parts) == 2 and not path.is_dir()


def is_difference(name: str) -> bool:
    """Returns whether a hub name, in any of the forms that `released` takes, is of a published weight difference."""
    return released(name) not in ("", *_WHOLE)


def repository(name: str) -> str:
    """Returns a hub name without "@revision", and a released checkpoint's as the hub has it, with "-wdiff" or not."""
    key = released(name)
    if not key:
        return name.partition("@")[0]
    return f"{_PREFIX}{key}{'' if key in _WHOLE else difference.ENDING}"


def download(name: str) -> Path:
    """Returns the folder of "owner/name" or "owner/name@revision" in the hub's cache; downloads it if necessary.

    Raises:
      FileNotFoundError: it is gated, there is no such repository or revision, or the hub cannot be reached; the message
        says which, and what to do.
    """
    from huggingface_hub import snapshot_download

    repo, revision = repository(name), name.partition("@")[2] or None
    with _explained(repo, revision):
        folder = Path(snapshot_download(repo, allow_patterns=_FILES, revision=revision))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo, allow_patterns=[*_FILES, *_PICKLES], revision=revision))
        return folder


def check_access(name: str) -> None:
    """Asks the hub whether a checkpoint can be downloaded, and downloads nothing; one in the hub's cache can be used.

    Of a weight difference its base must be there too.

    Raises:
      FileNotFoundError: as `download`.
      ValueError: it is a torch pickle, and torch is not installed.
    """
    from huggingface_hub import HfApi

    repo, revision = repository(name), name.partition("@")[2] or None
    if is_difference(name) and not Path(base()).is_dir():
        check_access(base())
    files = _cached_files(name)
    if not _holds_weights(files):
        with _explained(repo, revision):
            HfApi().auth_check(repo)
            files = HfApi().list_repo_files(repo, revision=revision)
    if fnmatch.filter(files, PICKLES) and not fnmatch.filter(files, "*.safetensors"):
        check_torch(repo)


def is_cached(name: str) -> bool:
    """Returns whether the hub's cache holds a checkpoint with weights."""
    return _holds_weights(_cached_files(name))


def _cached_files(name: str) -> list[str]:
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):  # whatever the reason: it is not in the cache
        folder = snapshot_download(repository(name), revision=name.partition("@")[2] or None, local_files_only=True)
        return os.listdir(folder)
    return []


def _holds_weights(files: list[str]) -> bool:
    return bool(fnmatch.filter(files, "*.safetensors") or fnmatch.filter(files, PICKLES))


def download_texts(name: str) -> Path:
    """Returns the folder of a checkpoint's config and tokenizer in the hub's cache; downloads no weights.

    Raises:
      FileNotFoundError: as `download`.
    """
    from huggingface_hub import snapshot_download

    repo, revision = repository(name), name.partition("@")[2] or None
    with _explained(repo, revision):
        return Path(snapshot_download(repo, allow_patterns=_TEXTS, revision=revision))


@contextlib.contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Replaces errors of the hub's client by messages that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        reason = f"it is gated: accept its licence at https://huggingface.co/{name} and log in (`hf auth login`)"
        raise FileNotFoundError(_no_checkpoint(name, reason)) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(_no_checkpoint(name, f"the hub has it, but not its revision {revision!r}")) from error
    except errors.RepositoryNotFoundError as error:
        reason = "the hub does not know it; correct the name, or log in if it is private"
        raise FileNotFoundError(_no_checkpoint(name, reason)) from error
    except Exception as error:  # errors of many packages: offline, a proxy, a full disk
        reason = f"the download failed ({' '.join(str(error).split())})"
        raise FileNotFoundError(_no_checkpoint(name, reason)) from error


def _no_checkpoint(name: str, reason: str) -> str:
    return f"{name!r} is no folder here, and from the hub: {reason}. Give a folder that was downloaded elsewhere."


def recovered(name: str) -> Path:
    """Returns the folder of a published weight difference added to Llama 2 7B; writes it at first use (27 GB, float32).

    LC_LLAMA_2_7B is the base, a local folder or a hub name; LC_CACHE is the folder of results (default
    ~/.cache/lc_jax).

    Raises:
      FileNotFoundError: the difference or the base cannot be had, or several hosts would have to make it.
      ValueError: the base is not the one that the difference was made from.
    """
    upload = download(name)
    folder = cache() / f"{_recovered_prefix(name)}{upload.name}"  # the snapshot's name is its commit
    if folder.is_dir():
        return folder
    if jax.process_count() > 1:
        raise FileNotFoundError(
            f"{name!r} is a weight difference: recover it with configs/convert.py into a folder that all hosts see."
        )
    logging.info("Recovering %s from %s into %s", name, base(), folder)
    source = Path(base()) if Path(base()).is_dir() else download(base())
    difference.recover(source, upload, folder, name=repository(name))
    return folder


def is_recovered(name: str) -> bool:
    """Returns whether some revision of a weight difference was recovered before."""
    return any(cache().glob(f"{_recovered_prefix(name)}*"))


def _recovered_prefix(name: str) -> str:
    return f"{repository(name).replace('/', '--')}--"


def downloads() -> Path:
    """Returns the hub's cache, where checkpoints are downloaded to: HF_HOME moves it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cache() -> Path:
    """Returns the folder of recovered models: LC_CACHE, or else ~/.cache/lc_jax."""
    return Path(os.environ.get("LC_CACHE", "").strip() or "~/.cache/lc_jax").expanduser()


def base() -> str:
    """Returns the base of the published differences: LC_LLAMA_2_7B, a local folder or a hub name, or else BASE."""
    return os.path.expanduser(os.environ.get("LC_LLAMA_2_7B", "").strip()) or BASE
