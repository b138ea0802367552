"""Native checkpoints: parameters in Orbax's sharded format beside the same config.json and tokenizer files."""

from __future__ import annotations

from pathlib import Path

PARAMS = "params"  # the folder of the Orbax arrays


def is_native(path: str | Path) -> bool:
    """Whether `path` was written by `save`."""
    return (Path(path) / PARAMS).is_dir()
