"""Disk space of stages while they run and afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
from ml_collections import ConfigDict

from lc_jax.models import hub, registry
from lc_jax.planning import models, work
from lc_jax.planning.models import Models
from lc_jax.planning.stages import TRAINING, Stage
from lc_jax.training.checkpoint import KEEP

# Bytes of moments for each parameter in a checkpoint of training, with the low half of "adamw_int8_master".
MOMENTS = {"adamw": 8.0, "adamw_int8": 2.06, "adamw_int8_master": 4.06}
_EPISODE, _RECORD = 3e3, 8e3  # bytes of an episode in a PPO run's log, and of an evaluation's record with its replies
_DOWNLOAD, _RECOVERED = 2, 4  # bytes a parameter of a hub checkpoint, of a model recovered from a difference


@dataclasses.dataclass(frozen=True)
class Disk:
    """Disk space of one stage, bytes."""

    peak: float  # while it runs
    rest: float  # afterwards; negative if it frees more than it adds


def measure(stage: Stage, stages: Sequence[Stage], shapes: Models, *, keep_checkpoints: bool = False) -> Disk:
    """Returns the disk space of a stage in an output folder of its own.

    Args:
      keep_checkpoints: as launch/reproduce.sh --keep-checkpoints.
    """
    config = stage.config
    if config.task == "ppo":
        return _ppo(config, shapes, keep_checkpoints)
    if config.task in TRAINING:
        params = shapes.num_trained(config.model, config)
        export, checkpoint = _export(config, params), _checkpoint(config, params)
        rest = export + (KEEP * checkpoint if keep_checkpoints else 0.0)
        return Disk(export + (KEEP + 1) * checkpoint, rest)  # a checkpoint is written before the oldest is deleted
    records = work.num_rows(stage, stages) * work.num_candidates(stage, stages) * config.get("num_samples", 1) * _RECORD
    # A selection takes no space: it makes hard links to the candidate's files.
    run, freed = work.selected_run(stage, stages), 0.0
    if run is not None and not keep_checkpoints:
        freed = (run.ppo.num_candidates - 1) * _export(run, shapes.num_trained(run.policy, run))
    return Disk(records, records - freed)


def _itemsize(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize


def _export(config: ConfigDict, params: float) -> float:
    """Returns the bytes of a Hugging Face folder, of an adapter's where adapters are trained."""
    return params * _itemsize(config.export_dtype or config.precision.param_dtype)


def _checkpoint(config: ConfigDict, params: float) -> float:
    """Returns the bytes of a checkpoint of training."""
    return params * (_itemsize(config.precision.param_dtype) + MOMENTS[config.optimizer.kind])


def _ppo(config: ConfigDict, shapes: Models, keep_checkpoints: bool) -> Disk:
    """Returns the space of checkpoints of policy and critic, candidate policies, and the log of all episodes."""
    ppo, policy = config.ppo, shapes.num_trained(config.policy, config)
    critic = shapes.num_trained(config.critic, config) if ppo.baseline.startswith("critic") else 0.0
    checkpoint, export = _checkpoint(config, policy + critic), _export(config, policy)
    episodes = ppo.num_steps * ppo.rollout_batch_size * _EPISODE
    peak = (ppo.num_candidates + 1) * export + (ppo.keep + 1) * checkpoint + episodes
    rest = (ppo.num_candidates + 1) * export + episodes + (ppo.keep * checkpoint if keep_checkpoints else 0.0)
    return Disk(peak, rest)


def downloads(stages: Sequence[Stage], shapes: Models) -> float:
    """Returns the bytes of the hub's checkpoints that the stages read."""
    return sum(_DOWNLOAD * shapes.num_parameters(name) for name in _hub_names(stages))


def missing_downloads(stages: Sequence[Stage], shapes: Models) -> tuple[float, float]:
    """Returns the bytes to download for the stages, and those of models to recover from weight differences.

    Checkpoints in the hub's cache are not counted.
    """
    names = [name for name in _hub_names(stages) if not registry.is_preset(name)]
    differences = [name for name in names if hub.is_difference(name) and not hub.is_recovered(name)]
    names += [hub.base()] * bool(differences)
    sources = [name for name in dict.fromkeys(names) if not Path(name).is_dir() and not hub.is_cached(name)]
    return (
        sum(_DOWNLOAD * shapes.num_parameters(name) for name in sources),
        sum(_RECOVERED * shapes.num_parameters(name) for name in differences),
    )


def _hub_names(stages: Sequence[Stage]) -> list[str]:
    """Returns the checkpoints that the stages read, except local ones and those that a stage makes."""
    results = {stage.result for stage in stages}
    names = {part[key] for stage in stages for part, key in models.fields(stage.config)} - results
    return sorted(name for name in names if not Path(name).is_dir())


def most(disks: Sequence[Disk]) -> float:
    """Returns the peak of disk space, bytes, of stages that run one after the other."""
    total = highest = 0.0
    for disk in disks:
        highest = max(highest, total + disk.peak)
        total += disk.rest
    return highest
