"""Finds whatever would stop a stage of a script before the first one runs, with all problems at once.

The check covers the settings and files of every stage (its task's own `check`), access to the hub's checkpoints with
their tokenizers, the questions of evaluations and whether training has seen them, disk, devices and memory. What an
earlier stage will make counts as present. A test data set that is missing leaves out its stages and nothing else.
"""

from __future__ import annotations

import functools
import math
import re
import shutil
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax import tasks
from lc_jax.data import jsonl
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.evaluation.results import NOT_EVALUATED
from lc_jax.memory import GB
from lc_jax.models import folders, hub, registry
from lc_jax.planning import disk, models, questions, remedies, stages
from lc_jax.planning.devices import Devices
from lc_jax.planning.hours import Clock, measured_figures
from lc_jax.planning.models import Models
from lc_jax.planning.questions import Missing
from lc_jax.planning.stages import Stage
from lc_jax.preflight import Problems, check_all

RECORD = ""


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: the devices are only looked at."""
    return False


def check(config: ConfigDict) -> None:
    """Refuses a file of stages that is not there, or devices without a meaning."""
    stages.check_file(config.stages, "--check")
    if config.devices:
        Devices.parse(config.devices)


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Checks the stages without results, and writes all that can run to `config.ready`.

    Raises:
      Problems: one message for each problem, with the stages that have it.
    """
    every = stages.load(config.stages, config.profile)
    todo = [stage for stage in every if not stage.is_done]
    missing = questions.missing_tests(todo)
    left_out = {name for data in missing if not data.is_fault for name in data.stages}
    todo = [stage for stage in todo if stage.name not in left_out]
    reported = {(name, data.reason) for data in missing for name in data.stages}
    readable = [stage for stage in todo if not any(stage.name in data.stages for data in missing)]
    for data in missing:
        if not data.is_fault:
            print(f"Not evaluated: {data.data}: {data.reason}")
    with tempfile.TemporaryDirectory() as folder:
        shapes: dict[str, str] = {}
        check_all(
            lambda: questions.check_missing(missing),
            lambda: check_own(todo, reported),
            lambda: shapes.update(check_checkpoints(every, todo, Path(folder))),
            lambda: _check_leaks(readable),
            lambda: check_disk(todo, Models(every, shapes), keep_checkpoints=config.keep_checkpoints),
            lambda: check_devices(todo, Models(every, shapes), config),
        )
        if config.ready:
            _write_ready(config, [stage for stage in every if stage.name not in left_out], Models(every, shapes))
            _note_missing(Path(config.evaluations), missing)
    print(f"Nothing stops the {len(todo)} stages that are left; {len(every) - len(todo) - len(left_out)} are done.")


def _write_ready(config: ConfigDict, ready: Sequence[Stage], shapes: Models) -> None:
    """Writes the lines of the stages, and to FILE.seconds how long each is expected to take; 0: unknown."""
    devices = Devices.here()
    clock = Clock(devices, ready, shapes, measured_figures(Path(config.figures), devices.kind))
    seconds = [clock.time(stage).value * 3600 for stage in ready]
    Path(config.ready).write_text("".join(f"{stage}\n" for stage in ready))
    Path(f"{config.ready}.seconds").write_text("".join(f"{0 if math.isnan(s) else round(s)}\n" for s in seconds))


def _note_missing(folder: Path, missing: Sequence[Missing]) -> None:
    """Tells the report which data sets are not evaluated, and why."""
    path = folder / NOT_EVALUATED
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        jsonl.write_json(path, [{"data": data.data, "reason": data.reason} for data in missing])
    else:
        path.unlink(missing_ok=True)


def check_own(todo: Sequence[Stage], reported: Set[tuple[str, str]] = frozenset()) -> None:
    """Runs the `check` of each stage's task; what an earlier stage will make counts as present.

    Args:
      reported: (stage, message) of problems that have a message already.

    Raises:
      Problems: those of all stages, each once.
    """
    names: dict[str, list[str]] = {}  # message -> the stages that have this problem
    for number, stage in enumerate(todo):
        for message in _own_problems(stage, [earlier.result for earlier in todo[:number]]):
            if (stage.name, message) not in reported:
                names.setdefault(message, []).append(stage.name)
    if names:
        raise Problems([f"{stages.join_names(where)}: {message}" for message, where in names.items()])


def _own_problems(stage: Stage, future: Sequence[str]) -> list[str]:
    """The messages of a task's `check`, but for those that paths of `future` are missing."""
    check = tasks.find(stage.config.task, "check")
    try:
        check_all(*[functools.partial(check, stage.config)] * bool(check))
    except Problems as error:
        absent = {message for message in error.missing if any(_mentions(message, path) for path in future)}
        return [message for message in error.messages if message not in absent]
    return []


def _mentions(message: str, path: str) -> bool:
    """Returns whether a message has a path, or one inside that folder; "out/model2" and "out/model.json" are others."""
    return re.search(rf"(?<![\w./-]){re.escape(path)}(?!\.?[\w-])", message) is not None


def check_checkpoints(every: Sequence[Stage], todo: Sequence[Stage], folder: Path) -> dict[str, str]:
    """Checks that the hub's checkpoints can be downloaded, and their architectures and tokenizers read.

    Args:
      folder: where their texts go; weights are not downloaded.

    Returns:
      A folder with the shape of each; see `Models`.

    Raises:
      Problems: one for each checkpoint, with the stages that need it.
    """
    results = {stage.result for stage in every}
    uses: dict[str, list[str]] = {}
    for stage in todo:
        for part, key in models.fields(stage.config):
            uses.setdefault(part[key], []).append(stage.name)
    shapes: dict[str, str] = {}
    messages: list[str] = []
    for name, where in uses.items():
        if name in results or Path(name).is_dir() or registry.is_preset(name):
            continue
        target = folder / str(len(shapes) + len(messages))
        try:
            shapes[name] = _read_texts(name, target)
        except (OSError, ValueError) as error:
            messages.append(f"{stages.join_names(where)}: {error}")
    if messages:
        raise Problems(messages)
    return shapes


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


def check_disk(todo: Sequence[Stage], shapes: Models, *, keep_checkpoints: bool) -> None:
    """Checks that what the stages write and download fits the disks.

    Args:
      keep_checkpoints: as launch/reproduce.sh --keep-checkpoints.

    Raises:
      Problems: one for each disk that is too small.
    """
    output_bytes = disk.most([disk.measure(stage, todo, shapes, keep_checkpoints=keep_checkpoints) for stage in todo])
    downloads, recovered = disk.missing_downloads(todo, shapes)
    needs = [(Path(stage.result).parent, output_bytes, "LC_OUTPUT", "the stages") for stage in todo[:1]]
    needs += [
        (hub.downloads(), downloads, "HF_HOME", "downloads"),
        (hub.cache(), recovered, "LC_CACHE", "models recovered from weight differences"),
    ]
    disks: dict[int, list[tuple[Path, float, str, str]]] = {}  # number of a file system -> what goes there
    for folder, size, variable, content in needs:
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        disks.setdefault(place.stat().st_dev, []).append((place, size, variable, content))
    messages = []
    for items in disks.values():
        place, free = items[0][0], shutil.disk_usage(items[0][0]).free
        items = [item for item in items if item[1]]
        if free < sum(size for _, size, _, _ in items):
            parts = ", ".join(f"{what} up to {size / GB:,.0f} GB" for _, size, _, what in items)
            names = " or ".join(f"another {variable}" for _, _, variable, _ in items)
            messages.append(
                f"{place} has {free / GB:,.0f} GB of free disk; it takes: {parts} (launch/reproduce.sh --plan). "
                f"Free some, or give {names}."
            )
    if messages:
        raise Problems(messages)


def check_devices(todo: Sequence[Stage], shapes: Models, config: ConfigDict) -> None:
    """Checks that every stage fits the devices: before a run those of this machine, in a check alone the named ones.

    Args:
      config: of this task.

    Raises:
      ValueError: this machine has other devices than those that are named.
      Problems: stages do not fit.
    """
    is_run = bool(config.ready)
    devices = Devices.choose(config.devices, "" if is_run else config.profile)
    here = Devices.here() if is_run else devices
    if (here.kind, here.count) != (devices.kind, devices.count):
        raise ValueError(
            f"--devices={config.devices}, but this machine has {here.count}x{here.kind}: leave --devices out."
        )
    memories = remedies.measure_all(todo, shapes, devices, lambda task: tasks.find(task, "planned"))
    messages = remedies.refusals(todo, memories)
    if messages:
        raise Problems(messages)
    print(f"Devices: {devices}.")
