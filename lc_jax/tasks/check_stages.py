"""Checks all stages of a script before the first one runs: each task's own checks, with all problems at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax.planning import stages
from lc_jax.planning.stages import Stage
from lc_jax.preflight import Problems, check_all

RECORD = ""


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: the devices are only looked at."""
    return False


def check(config: ConfigDict) -> None:
    """Refuses a file of stages that is not there."""
    if not Path(config.stages).is_file():
        raise FileNotFoundError(
            f"--config.stages={config.stages}: no such file; `launch/reproduce.sh --check` writes one and calls this."
        )


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Checks the stages without results, and writes all that can run to `config.ready`.

    Raises:
      Problems: one message for each problem, with the stages that have it.
    """
    found = stages.load(config.stages, config.profile)
    todo = [stage for stage in found if not stage.is_done]
    check_own(todo)
    if config.ready:
        Path(config.ready).write_text("".join(f"{stage}\n" for stage in found))


def check_own(todo: Sequence[Stage]) -> None:
    """Runs the `check` of each stage's task; what an earlier stage will make counts as present.

    Raises:
      Problems: those of all stages, each once.
    """
    names: dict[str, list[str]] = {}  # message -> the stages that have this problem
    for number, stage in enumerate(todo):
        future = [earlier.result for earlier in todo[:number]]
        for message in _problems(_check_of(stage)):
            if not any(result in message for result in future):
                names.setdefault(message, []).append(stage.name)
    if names:
        raise Problems([f"{stages.listed(where)}: {message}" for message, where in names.items()])


def _check_of(stage: Stage) -> Callable[[], None]:
    task = importlib.import_module(f"lc_jax.tasks.{stage.config.task}")
    return lambda: getattr(task, "check", lambda config: None)(stage.config)


def _problems(check: Callable[[], object]) -> list[str]:
    """The messages of what a check raises."""
    try:
        check_all(check)
    except Problems as error:
        return error.messages
    return []
