"""The memory of stages on their devices, and the settings with which a stage that does not fit would."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from lc_jax import activations, memory, parallel
from lc_jax.planning import models, work
from lc_jax.planning.devices import Devices
from lc_jax.planning.models import Models
from lc_jax.planning.stages import Stage, join_names

Planner = Callable[[ConfigDict, parallel.AnyMesh], memory.Plan]  # `planned` of a task that trains

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
    advice: str = ""  # where it does not fit: flags with which it fits, or the devices that it needs

    @property
    def fits(self) -> bool:
        """True if the largest phase fits."""
        return self.peak <= self.limit


def measure(config: ConfigDict, devices: Devices, planner: Planner | None) -> Memory:
    """Returns the memory of a stage on devices that need not be here.

    Args:
      config: of the stage, with checkpoints that are folders or presets (`Models.with_shapes`).
      planner: its task's; None for one whose checkpoint only writes.
    """
    if not list(models.fields(config)):
        return Memory(0.0, devices.limit)
    plan = _plan(config, devices, planner)
    largest = max(plan.phases, key=lambda phase: phase.total)
    advice = "" if plan.fits else _advice(config, devices, planner)
    return Memory(largest.total, devices.limit, largest.name, advice)


def measure_all(
    stages: Sequence[Stage], shapes: Models, devices: Devices, planner: Callable[[str], Planner | None]
) -> list[Memory]:
    """Returns the memory of every stage.

    Args:
      planner: gives the `planner` of a task by its name.
    """
    return [measure(shapes.with_shapes(s.config), devices, planner(s.config.task)) for s in stages]


def refusals(stages: Sequence[Stage], memories: Sequence[Memory]) -> list[str]:
    """Returns a line for each kind of stage that does not fit, with what makes it fit."""
    names: dict[str, list[str]] = {}
    for stage, use in zip(stages, memories, strict=True):
        if use.fits:
            continue
        peak, limit = f"{use.peak / memory.GB:,.0f} GB", f"{use.limit / memory.GB:,.0f} GB"
        remedy = f"it needs {use.advice}"
        if use.advice.startswith("--"):
            config = stage.experiment.partition(":")[0]
            remedy = f"give it the line `{config} {use.advice}` in a profile (launch/reproduce.sh --profile=FILE)"
        message = f"{use.phase} takes {peak} of each device's {limit}; {remedy}."
        names.setdefault(message, []).append(stage.name)
    return [f"{join_names(where)}: {message}" for message, where in names.items()]


def with_settings(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with other values by dotted name."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return config


def _plan(config: ConfigDict, devices: Devices, planner: Planner | None) -> memory.Plan:
    mesh = parallel.abstract_mesh(devices.count, **config.mesh)
    with activations.for_devices_of(devices.limit):
        if planner is not None:
            return planner(config, mesh)
        return memory.plan_generation(config.to_dict(), mesh, work.prompt_tokens(config))


def _remedies(config: ConfigDict) -> Iterator[Mapping[str, Any]]:
    """Yields settings that take less memory, the change that costs least first."""
    if config.task in _REMEDIES:
        yield from _REMEDIES[config.task]
        return
    size = config.batch_size // 2
    while size:
        yield {"batch_size": size}
        size //= 2


def _advice(config: ConfigDict, devices: Devices, planner: Planner | None) -> str:
    """Returns the first change with which the stage fits, as flags; or how many devices it takes."""
    for changes in _remedies(config):
        if _plan(with_settings(config, changes), devices, planner).fits:
            return " ".join(f"--config.{name}={str(value).lower()}" for name, value in changes.items())
    count = devices.count * 2
    while count <= _MOST_DEVICES:
        if _plan(config, dataclasses.replace(devices, count=count), planner).fits:
            return f"{count}x{devices.kind}"
        count *= 2
    return f"more than {_MOST_DEVICES}x{devices.kind}"
