"""python -m lc_jax.main --config=configs/ppo.py[:mini] [--config.field=value ...]: runs a config's task.

A task is a module of lc_jax/tasks, named by `config.task`:

  run(config, mesh)                does the work; writes under `config.output` only
  check(config) -> None            optional: everything that names, files and sizes tell before devices are made, anything is
                                   compiled or paid for (`preflight.check_all` collects several problems). It reads files and
                                   writes nothing, raises ValueError or OSError, and main calls it before `run`, for a dry run too
  needs_devices(config) -> bool    optional: False where the task needs no JAX; the mesh is None then
"""

from __future__ import annotations

import contextlib
import importlib
import logging as stdlib_logging
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a file of configs/, with ':mini' for the miniature."
)


@contextlib.contextmanager
def _devices(task: ModuleType, config: ConfigDict) -> Iterator[Any]:
    """The mesh, or None without importing JAX for a task whose `needs_devices` says so (an evaluation of texts)."""
    if not getattr(task, "needs_devices", lambda config: True)(config):
        yield None
        return
    import jax

    from lc_jax import parallel

    parallel.start()
    mesh = parallel.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        yield mesh


def main(argv: Sequence[str]) -> None:
    """Config -> mesh -> task. Bad input ends with one message and exit code 1; -v=1 adds the traceback."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}; settings are given as --config.name=value.")
    config = _CONFIG.value
    for name in ("output", "method"):
        if config.get(name) == "":
            sys.exit(f"error: give --config.{name}=...")
    logging.get_absl_handler().addFilter(lambda r: r.levelno >= stdlib_logging.WARNING or "lc_jax" in r.pathname)
    try:
        task = importlib.import_module(f"lc_jax.tasks.{config.task}")
        getattr(task, "check", lambda config: None)(config)
        with _devices(task, config) as mesh:
            task.run(config, mesh)
    except (OSError, ValueError, FloatingPointError) as error:
        logging.vlog(1, "Traceback of the error below", exc_info=True)
        sys.exit("\n".join(f"error: {line}" for line in getattr(error, "messages", [str(error)])))


def _parse(argv: Sequence[str]) -> list[str]:
    """The command line; an override that the config does not take ends with one message."""
    try:
        return app.parse_flags_with_usage(list(argv))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        words = str(error).replace("\\n", " ").translate({ord(mark): None for mark in "\\'"})
        sys.exit(f"error: a setting that the config does not take: {words}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=_parse)
