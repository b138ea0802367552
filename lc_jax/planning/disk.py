"""How much disk stages take while they run, and how much they leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from lc_jax.planning import models, work
from lc_jax.planning.models import Models
from lc_jax.planning.stages import TRAINING, Stage

# Bytes a trained parameter in a checkpoint of training: itself, its moments, and the low half of "adamw_int8_master".
_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
MOMENTS = {"adamw": 8.0, "adamw_int8": 2.06, "adamw_int8_master": 4.06}
_SFT_KEEP = 2  # checkpoints that a supervised run keeps
_EPISODE, _RECORD = 3e3, 8e3  # of a PPO run's log, of an evaluation with its replies
_DOWNLOAD = 2  # bytes a parameter of a hub checkpoint


@dataclasses.dataclass(frozen=True)
class Disk:
    """Bytes of one stage."""

    peak: float  # while it runs
    rest: float  # once it is done; below 0 where it frees more than it leaves


def measure(stage: Stage, stages: Sequence[Stage], shapes: Models, *, keep_checkpoints: bool = False) -> Disk:
    """The disk of a stage in an output folder of its own.

    Args:
      keep_checkpoints: as launch/reproduce.sh --keep-checkpoints.
    """
    config = stage.config
    if config.task == "ppo":
        return _ppo(config, shapes, keep_checkpoints)
    if config.task in TRAINING:
        params = shapes.num_parameters(config.model)
        export, checkpoint = _export(config, params), _checkpoint(config, params)
        rest = export + (_SFT_KEEP * checkpoint if keep_checkpoints else 0.0)
        return Disk(export + (_SFT_KEEP + 1) * checkpoint, rest)  # one is written before one is deleted
    records = work.num_rows(stage) * work.num_candidates(stage, stages) * config.get("num_samples", 1) * _RECORD
    run, freed = work.selected_run(stage, stages), 0.0
    if run is not None and not keep_checkpoints:
        freed = (run.ppo.num_candidates - 1) * _export(run, shapes.num_parameters(run.policy))
    return Disk(records, records - freed)


def _export(config: ConfigDict, params: float) -> float:
    """Bytes of a model in Hugging Face's form."""
    return params * _ITEM[config.export_dtype or config.precision.param_dtype]


def _checkpoint(config: ConfigDict, params: float) -> float:
    """Bytes of a checkpoint of training."""
    return params * (_ITEM[config.precision.param_dtype] + MOMENTS[config.optimizer.kind])


def _ppo(config: ConfigDict, shapes: Models, keep_checkpoints: bool) -> Disk:
    """Checkpoints of policy and critic, the policies among which one is selected, and the log of all episodes."""
    ppo, policy = config.ppo, shapes.num_parameters(config.policy)
    critic = shapes.num_parameters(config.critic) if ppo.baseline.startswith("critic") else 0.0
    checkpoint, export = _checkpoint(config, policy + critic), _export(config, policy)
    episodes = ppo.num_steps * ppo.rollout_batch_size * _EPISODE
    peak = (ppo.num_candidates + 1) * export + (ppo.keep + 1) * checkpoint + episodes
    rest = (ppo.num_candidates + 1) * export + episodes + (ppo.keep * checkpoint if keep_checkpoints else 0.0)
    return Disk(peak, rest)


def downloads(stages: Sequence[Stage], shapes: Models) -> float:
    """Bytes of the hub's checkpoints that the stages read."""
    made = {stage.result for stage in stages}
    names = {part[key] for stage in stages for part, key in models.fields(stage.config)} - made
    return sum(_DOWNLOAD * shapes.num_parameters(name) for name in names if not Path(name).is_dir())


def most(disks: Sequence[Disk]) -> float:
    """Bytes that stages in a row take at most at one time."""
    there = highest = 0.0
    for disk in disks:
        highest = max(highest, there + disk.peak)
        there += disk.rest
    return highest
