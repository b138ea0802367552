"""The tasks: what a config may run. Each module has `run(config, mesh)`, and may have `check`, `planned` and more."""

from __future__ import annotations

import importlib
from typing import Any


def find(task: str, function: str) -> Any:
    """Returns the function of that name which a task defines; None where it defines none."""
    return getattr(importlib.import_module(f"lc_jax.tasks.{task}"), function, None)
