"""Finds whatever would stop a stage of a script before the first one runs, with all problems at once.

Looked at are the settings and files of every stage (its task's own `check`), access to the hub's checkpoints with their
tokenizers, the questions of evaluations and whether training has seen them, disk, devices and memory. What an earlier
stage will make counts as present. A test data set that is missing leaves out its stages and nothing else.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax.data import jsonl
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.evaluation.results import NOT_EVALUATED
from lc_jax.models import folders, hub, registry
from lc_jax.planning import disk, memory, models, questions, stages
from lc_jax.planning.devices import Devices
from lc_jax.planning.models import Models
from lc_jax.planning.questions import Missing
from lc_jax.planning.stages import Stage
from lc_jax.preflight import Problems, check_all
from lc_jax.training.plan import GB

RECORD = ""


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: the devices are only looked at."""
    return False


def check(config: ConfigDict) -> None:
    """Refuses a file of stages that is not there, or devices without a meaning."""
    if not Path(config.stages).is_file():
        raise FileNotFoundError(
            f"--config.stages={config.stages}: no such file; `launch/reproduce.sh --check` writes one and calls this."
        )
    if config.devices:
        Devices.named(config.devices)


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Checks the stages without results, and writes all that can run to `config.ready`.

    Raises:
      Problems: one message for each problem, with the stages that have it.
    """
    every = stages.load(config.stages, config.profile)
    todo = [stage for stage in every if not stage.is_done]
    missing = questions.missing_tests(todo)
    left_out = {name for data in missing for name in data.stages}
    todo = [stage for stage in todo if stage.name not in left_out]
    for data in missing:
        print(f"Not evaluated: {data.data}: {data.reason}")
    with tempfile.TemporaryDirectory() as folder:
        known: dict[str, str] = {}
        check_all(
            lambda: check_own(todo),
            lambda: known.update(check_checkpoints(every, todo, Path(folder))),
            lambda: _check_leaks(todo),
            lambda: check_resources(todo, Models(every, known), config.devices, is_run=bool(config.ready)),
        )
    if config.ready:
        lines = [f"{stage}\n" for stage in every if stage.name not in left_out]
        Path(config.ready).write_text("".join(lines))
        _note_missing(Path(config.evaluations), missing)
    print(f"Nothing is in the way of {len(todo)} stages; {len(every) - len(todo) - len(left_out)} are done.")


def _note_missing(folder: Path, missing: Sequence[Missing]) -> None:
    """Tells the report which data sets are not evaluated, and why."""
    path = folder / NOT_EVALUATED
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        jsonl.write_json(path, [{"data": data.data, "reason": data.reason} for data in missing])
    else:
        path.unlink(missing_ok=True)


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


def check_checkpoints(every: Sequence[Stage], todo: Sequence[Stage], folder: Path) -> dict[str, str]:
    """Checks that the hub's checkpoints can be downloaded, and their architectures and tokenizers read.

    Args:
      folder: where their texts go; weights are not downloaded.

    Returns:
      A folder with the shape of each; see `Models`.

    Raises:
      Problems: one for each checkpoint, with the stages that need it.
    """
    made = {stage.result for stage in every}
    uses: dict[str, list[str]] = {}
    for stage in todo:
        for part, key in models.fields(stage.config):
            uses.setdefault(part[key], []).append(stage.name)
    known: dict[str, str] = {}
    messages: list[str] = []
    for name, where in uses.items():
        if name in made or Path(name).is_dir() or registry.is_preset(name):
            continue
        target = folder / str(len(known) + len(messages))
        try:
            known[name] = _read_texts(name, target)
        except (OSError, ValueError) as error:
            messages.append(f"{stages.listed(where)}: {error}")
    if messages:
        raise Problems(messages)
    return known


def _read_texts(name: str, folder: Path) -> str:
    """A folder with a hub checkpoint's texts, after its config and tokenizer were read."""
    folders.check(name)
    hub.check_access(name)
    source = hub.download_texts(name)
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix in (".json", ".txt", ".model", ".jinja") and not path.name.endswith(".index.json"):
            (folder / path.name).symlink_to(path.resolve())
    (folder / "model.safetensors").touch()  # that there are weights is what makes a folder a checkpoint's
    folders.config_of(folder)
    load_tokenizer(folder)
    return str(folder)


def _check_leaks(todo: Sequence[Stage]) -> None:
    problems, notes = questions.leaks(todo)
    for note in notes:
        print(note)
    if problems:
        raise Problems(problems)


def check_resources(todo: Sequence[Stage], shapes: Models, devices: str, *, is_run: bool) -> None:
    """Checks disk, devices and memory.

    Args:
      devices: a name such as 8xa100; "": those that are here.
      is_run: whether the stages start next, on the devices that are here.

    Raises:
      Problems: the disk is too small, the devices are others, or stages do not fit them.
    """

    def check_disk() -> None:
        needed = disk.most([disk.measure(stage, todo, shapes) for stage in todo])
        for stage in todo[:1]:
            place = next(path for path in Path(stage.result).absolute().parents if path.exists())
            free = shutil.disk_usage(place).free
            if free < needed:
                raise ValueError(
                    f"{place} has {free / GB:,.0f} GB of free disk, the stages take up to {needed / GB:,.0f} GB "
                    "(launch/reproduce.sh --plan): free some, or give another LC_OUTPUT."
                )

    def check_devices() -> None:
        chosen = Devices.named(devices) if devices else Devices.here()
        here = Devices.here() if devices and is_run else chosen
        if (here.kind, here.count) != (chosen.kind, chosen.count):
            raise ValueError(
                f"--devices={devices}, but this machine has {here.count}x{here.kind}: leave --devices out."
            )
        lines = memory.refusals(todo, memory.of_stages(todo, shapes, chosen, _planned))
        if lines:
            raise Problems(lines)
        print(f"Devices: {chosen}.")

    check_all(check_disk, check_devices)


def _planned(task: str) -> memory.Planned | None:
    return getattr(importlib.import_module(f"lc_jax.tasks.{task}"), "planned", None)
