"""How much of a device's memory a stage takes, and the settings with which one that does not fit would."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from lc_jax import parallel
from lc_jax.inference import generate
from lc_jax.planning import models, work
from lc_jax.planning.devices import Devices
from lc_jax.planning.models import Models
from lc_jax.planning.stages import Stage, join_names
from lc_jax.rl import reader
from lc_jax.rl.plan import writing
from lc_jax.training import plan

Planned = Callable[[ConfigDict, parallel.AnyMesh], plan.Plan]  # as the tasks that train define it

# The settings that the memory of a checkpoint which only writes depends on.
WRITING = (
    "task", "what", "mesh", "precision", "model", "batch_size", "max_new_tokens", "strategy", "in_context",
    "templates", "prompt_dir",
)  # fmt: skip
_MASTER = {"precision.param_dtype": "bfloat16", "optimizer.kind": "adamw_int8_master"}
_SMALLEST_STATE = _MASTER | {"optimizer.kind": "adamw_int8"}
_MICROBATCH = {"fit.microbatch_size": 0}
_PPO = {"ppo.microbatch_size": 0, "ppo.decode_batch_size": 0}
_HOST = {"ppo.frozen_on_host": True}
_BATCHES = {"reader.batch_size": 32}
# What makes a stage smaller, the change that costs least first.
_REMEDIES: dict[str, list[Mapping[str, Any]]] = {
    "sft": [_MICROBATCH, _MICROBATCH | _MASTER, _MICROBATCH | _SMALLEST_STATE],
    "reward_model": [_MICROBATCH, _MICROBATCH | _MASTER, _MICROBATCH | _SMALLEST_STATE],
    "ppo": [
        _PPO,
        _PPO | _HOST,
        _PPO | _HOST | _MASTER | _BATCHES,
        _PPO | _HOST | _SMALLEST_STATE | _BATCHES,
        _PPO | _HOST | _SMALLEST_STATE | dict.fromkeys(_BATCHES, 16),
    ],
}
_MOST_DEVICES = 64


@dataclasses.dataclass(frozen=True)
class Memory:
    """The largest phase of a stage against the memory of a device."""

    peak: float  # bytes on each device; 0: no model works in the stage
    limit: float  # bytes of it that arrays may take
    phase: str = ""  # the largest
    advice: str = ""  # where it does not fit: what makes it fit

    @property
    def fits(self) -> bool:
        """Whether the largest phase fits."""
        return self.peak <= self.limit


def measure(config: ConfigDict, devices: Devices, planned: Planned | None) -> Memory:
    """Returns the memory of a stage on devices that need not be here.

    Args:
      config: of the stage, with checkpoints that are folders or presets (`Models.with_shapes`).
      planned: its task's; None for one whose checkpoint only writes.
    """
    if not list(models.fields(config)):
        return Memory(0.0, devices.limit)
    whole = _plan(config, devices, planned)
    largest = max(whole.phases, key=lambda phase: phase.total)
    advice = "" if whole.fits else _advice(config, devices, planned)
    return Memory(largest.total, devices.limit, largest.name, advice)


def of_stages(
    stages: Sequence[Stage], shapes: Models, devices: Devices, planned: Callable[[str], Planned | None]
) -> list[Memory]:
    """Returns the memory of every stage; stages of equal settings are measured once.

    Args:
      planned: gives the `planned` of a task by its name.
    """
    by_settings: dict[str, Memory] = {}
    memories = []
    for stage in stages:
        config = shapes.with_shapes(stage.config)
        plans = planned(config.task)
        key = str({name: config[name] for name in (config if plans else WRITING) if name in config})
        if key not in by_settings:
            by_settings[key] = measure(config, devices, plans)
        memories.append(by_settings[key])
    return memories


def refusals(stages: Sequence[Stage], memories: Sequence[Memory]) -> list[str]:
    """Returns a line for each kind of stage that does not fit, with what makes it fit."""
    names: dict[str, list[str]] = {}
    for stage, memory in zip(stages, memories, strict=True):
        if memory.fits:
            continue
        peak, limit = f"{memory.peak / plan.GB:,.0f} GB", f"{memory.limit / plan.GB:,.0f} GB"
        remedy = f"it needs {memory.advice}"
        if memory.advice.startswith("--"):
            config = stage.experiment.partition(":")[0]
            remedy = f"give it the line `{config} {memory.advice}` in a profile (launch/reproduce.sh --profile=FILE)"
        message = f"{memory.phase} takes {peak} of each device's {limit}; {remedy}."
        names.setdefault(message, []).append(stage.name)
    return [f"{join_names(where)}: {message}" for message, where in names.items()]


def with_settings(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with other values by dotted name."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return config


def _plan(config: ConfigDict, devices: Devices, planned: Planned | None) -> plan.Plan:
    config = config.copy_and_resolve_references()  # plans fill in sizes of 0
    mesh = parallel.abstract_mesh(devices.count, **config.mesh)
    with jax.sharding.use_abstract_mesh(mesh), plan.for_devices_of(devices.limit):
        return (planned or _writing)(config, mesh)


def _writing(config: ConfigDict, mesh: parallel.AnyMesh) -> plan.Plan:
    """The plan of a checkpoint that writes paragraphs."""
    model = plan.outline(config.model, mesh, **reader.frozen(config.precision))
    width = work.prompt_tokens(config)
    return writing(model, config.batch_size, width, generate.Sampling(config.max_new_tokens, config.temperature))


def remedies(config: ConfigDict) -> Iterator[Mapping[str, Any]]:
    """Yields settings that take less memory, the change that costs least first."""
    if config.task in _REMEDIES:
        yield from _REMEDIES[config.task]
        return
    size = config.batch_size // 2
    while size:
        yield {"batch_size": size}
        size //= 2


def _advice(config: ConfigDict, devices: Devices, planned: Planned | None) -> str:
    """The first change with which the stage fits, as flags; or how many devices it takes."""
    for changes in remedies(config):
        if _plan(with_settings(config, changes), devices, planned).fits:
            return " ".join(f"--config.{name}={str(value).lower()}" for name, value in changes.items())
    count = devices.count * 2
    while count <= _MOST_DEVICES:
        if _plan(config, dataclasses.replace(devices, count=count), planned).fits:
            return f"{count}x{devices.kind}"
        count *= 2
    return f"more than {_MOST_DEVICES}x{devices.kind}"
