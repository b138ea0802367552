"""python -m lc_jax.main --config=configs/ppo.py[:mini] [--config.field=value ...]: runs a config's task.

A task is a module of lc_jax/tasks, named by `config.task`:

  run(config, mesh)              does the work; writes under `config.output` only
  check(config) -> None          optional: everything that names, files and sizes tell before devices are made, or
                                 anything is compiled or paid for (`preflight.check_all` collects several problems).
                                 It reads files and writes nothing; main calls it before `run`, and before dry runs.
                                 Raises ValueError or OSError
  needs_devices(config) -> bool  optional: False where the task needs no JAX; the mesh is None then
  RECORD: str                    optional: file of the run's provenance, by names of settings; "": none. Without it
                                 "{output}/run.json"
  RECORD_AT_END = True           optional: that file is written only after `run`, into a folder that `run` makes
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from lc_jax import interrupts

    interrupts.install()

import contextlib
import functools
import importlib
import logging as stdlib_logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

from lc_jax import interrupts, settings, tasks, terminal, usage
from lc_jax.data import memo
from lc_jax.preflight import NothingJudged, Problems
from lc_jax.provenance import RunRecord

PACKAGE = str(Path(__file__).resolve().parent) + os.sep  # by which our own log lines are told from those of libraries
HELP = ("--help", "-help", "-h", "--h", "-?", "--helpshort", "--helpfull")
BUG = 70  # exit code (EX_SOFTWARE)
_TRAINING = [
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax",
    "ml_dtypes",
    "safetensors",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "jinja2",
    "wandb",
]
# What to install for a package that is missing; all others belong to the base install.
_OURS = "." if (settings.REPOSITORY / "pyproject.toml").exists() else "lc_jax"  # as pip calls this package
EXTRAS = {"sentence_transformers": f'"{_OURS}[retrieval]"', "torch": "torch"}
EXTRAS |= dict.fromkeys(_TRAINING, f'"{_OURS}[train]"')


@contextlib.contextmanager
def _devices(task: ModuleType, config: ConfigDict) -> Iterator[Any]:
    """The mesh, or None without importing JAX for a task whose `needs_devices` says so (an evaluation of texts)."""
    if not getattr(task, "needs_devices", lambda config: True)(config):
        yield None
        return
    import jax

    from lc_jax import parallel

    parallel.start()
    parallel.use_compilation_cache(config.compilation_cache)
    mesh = parallel.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        yield mesh


def _describe(mesh: Any) -> dict[str, Any]:
    """Kind and number of the devices of a mesh, for the run's record."""
    if mesh is None:
        return {}
    device = mesh.devices.flat[0]
    processes = len({d.process_index for d in mesh.devices.flat})
    return {"kind": device.device_kind, "count": mesh.size, "processes": processes, "mesh": dict(mesh.shape)}


def _record(task: ModuleType, config: ConfigDict, command: Sequence[str], mesh: Any) -> RunRecord | None:
    """The record of this run; None for a dry run, a task that leaves nothing, and on all hosts but the first."""
    values = dict(settings.flat(config))
    place = getattr(task, "RECORD", "{output}/run.json").format_map(
        {name: str(value).rstrip("/") for name, value in values.items()}
    )
    if config.get("dry_run") or not place or (mesh is not None and sys.modules["jax"].process_index()):
        return None
    return RunRecord(Path(place), values, command, _describe(mesh))


@contextlib.contextmanager
def _recorded(record: RunRecord | None, *, at_end: bool) -> Iterator[None]:
    """Writes the record before and after its run; one of a run that made nothing vanishes."""
    if record is None:
        yield
        return
    if not at_end:
        record.write()
    try:
        yield
    except BaseException as error:
        if not at_end:
            code = f"exit code {error.code}" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
            details = "" if _is_expected(error) else "".join(traceback.format_exception(error))
            record.finish("interrupted" if isinstance(error, KeyboardInterrupt) else code, details)
            record.withdraw()
        raise
    record.finish("done")


def run_task(argv: Sequence[str]) -> None:
    """Command line -> config -> checks -> mesh -> task.

    Raises:
      ValueError, OSError, FloatingPointError, ImportError: what the user can mend; anything else is a bug.
    """
    config, _ = settings.parse(argv[1:])
    missing = [f"give --config.{name}=..." for name in ("output", "method", "destination") if config.get(name) == ""]
    if missing:
        raise Problems(missing)
    names = sorted(module.name for module in pkgutil.iter_modules(tasks.__path__))
    if config.task not in names:
        raise Problems([f"config.task={config.task!r}: give one of {', '.join(names)}."])
    task = importlib.import_module(f"lc_jax.tasks.{config.task}")
    with memo.reuse():
        getattr(task, "check", lambda config: None)(config)
        with (
            _devices(task, config) as mesh,
            _recorded(_record(task, config, argv[1:], mesh), at_end=getattr(task, "RECORD_AT_END", False)),
        ):
            task.run(config, mesh)


def _is_expected(error: BaseException) -> bool:
    """Returns whether the message of an error suffices for the user."""
    return isinstance(error, OSError | ValueError | FloatingPointError | ImportError | KeyboardInterrupt | SystemExit)


def explain(error: BaseException) -> tuple[list[str], int]:
    """Returns what to print of an error, a line for each problem, and the exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"], interrupts.CODE
    if isinstance(error, Problems):
        return [" ".join(message.split()) for message in error.messages], 1
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        if package in ("", "lc_jax") or not isinstance(error, ModuleNotFoundError):
            return [f"{text}. Installing the packages again may help: pip install {EXTRAS['jax']}"], 1
        return [f"the package {package} is not installed: pip install {EXTRAS.get(package, _OURS)}"], 1
    if isinstance(error, OSError) and error.filename and error.strerror:
        return [f"{os.fsdecode(error.filename)}: {error.strerror}"], 1
    if _is_expected(error):
        return [text or type(error).__name__], NothingJudged.CODE if isinstance(error, NothingJudged) else 1
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        advice = "--config.dry_run=true prints what each phase takes; smaller micro-batches and batches take less"
        return [f"out of memory ({text[:300] or 'of the host'}). {advice}."], 1
    if type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError"):
        return [f"JAX: {text[:500]}"], 1
    return [f"internal error: {type(error).__name__}: {text[:500]} (a bug; -v=1 shows where, please report it)"], BUG


def main(argv: Sequence[str], wording: Callable[[str], str] = str) -> None:
    """Runs the task; an error ends with "error: " lines and a non-zero exit code, -v=1 adds the traceback.

    Args:
      wording: rewrites what is printed, for another command line than the documented one.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is not there, and the like
    handler = logging.get_absl_handler()
    handler.addFilter(lambda r: r.levelno >= stdlib_logging.WARNING or r.pathname.startswith(PACKAGE))
    handler.setFormatter(terminal.Formatter(wording=wording))
    try:
        run_task(argv)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and terminal.output_is_closed():
            sys.exit(1)
        interrupts.report()
        logging.vlog(1, "Traceback of the error below", exc_info=True)
        lines, code = explain(KeyboardInterrupt() if interrupts.is_requested() else error)
        for line in lines:
            print(f"error: {wording(line)}", file=sys.stderr)
        sys.exit(code)


def parse_flags(argv: Sequence[str], wording: Callable[[str], str] = str) -> list[str]:
    """Parses the flags that are not the config's, such as -v=1; returns the whole command line. Ends after --help.

    Args:
      wording: as in `main`.
    """
    others = settings.split(argv[1:])[2]
    if any(argument in HELP for argument in others):
        try:
            print(wording(usage.render(argv[1:])))
        except (ImportError, Problems) as error:
            sys.exit(wording("\n".join(f"error: {line}" for line in explain(error)[0])))
        sys.exit(0)
    try:
        rest = flags.FLAGS([argv[0], *others])[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        message = f"unknown flag --{name}; settings are given as --config.NAME=VALUE, such as --config.{name}=..."
    except flags.Error as error:
        message = f"{' '.join(str(error).split())}. Settings are given as --config.name=value."
    else:
        if not rest:
            return list(argv)
        message = f"unexpected argument {rest[0]!r}; settings are given as --config.name=value."
    sys.exit(wording(f"error: {message}"))


def start(argv: list[str] | None = None, wording: Callable[[str], str] = str) -> None:
    """The entry point.

    Args:
      argv: the command line in place of this process's.
      wording: as in `main`.
    """
    interrupts.install()
    parse = functools.partial(parse_flags, wording=wording)
    with terminal.quiet_when_closed():
        app.run(functools.partial(main, wording=wording), argv=argv, flags_parser=parse)


if __name__ == "__main__":
    start()
