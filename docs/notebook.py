"""Set-up of the notebooks in this folder: runs commands in the notebook's process, and reads rows."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import absl.logging
import jax

from lc_jax import parallel


def start(folder: str) -> Path:
    """Makes and returns the folder of a notebook's files (LC_OUTPUT moves it); tasks log below the cells."""
    absl.logging.set_verbosity(absl.logging.INFO)
    logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)
    logging.root.handlers[0].addFilter(lambda record: f"lc_jax{os.sep}tasks" in record.pathname)
    warnings.filterwarnings("ignore", "IProgress not found")  # bars of the notebook's own kind are not used
    path = Path(os.environ.get("LC_OUTPUT", folder))
    path.mkdir(parents=True, exist_ok=True)
    return path


def run(name: str, **settings: Any) -> None:
    """Prints the command of a config with fields overridden, and runs it. `__` in a name is the dot."""
    fields = {field.replace("__", "."): value for field, value in settings.items()}
    flags = [shlex.quote(f"--config.{field}={value}") for field, value in fields.items()]
    command = " \\\n    ".join([f"python -m lc_jax.main --config=configs/{name}.py:mini", *flags])
    print(re.sub(r"http://127\.0\.0\.1:[0-9]+", "$URL", command), end="\n\n")
    config = importlib.import_module(f"configs.{name}").get_config("mini")
    config.update_from_flattened_dict(fields)
    mesh = parallel.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        importlib.import_module(f"lc_jax.tasks.{config.task}").run(config, mesh)


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
