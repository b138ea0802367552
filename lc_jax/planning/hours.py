"""Duration of stages, from benchmarks on such devices, or else a lower bound from their peak rates (roofline)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lc_jax.planning import models, work
from lc_jax.planning.devices import Devices, kind_of
from lc_jax.planning.models import Models
from lc_jax.planning.requests import NUM_ANSWERS
from lc_jax.planning.stages import Stage

_HOUR = 3600
_KV_BYTES = 2  # bytes of a cache element


@dataclasses.dataclass(frozen=True)
class Hours:
    """Duration of a stage without compiling, loading and the annotator's replies."""

    value: float  # hours; NaN: unknown
    source: str = ""  # "measured", or "floor": a lower bound from the devices' peak rates

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        text = f"{self.value:,.2f}" if self.value < 10 else f"{self.value:,.0f}"
        return f">{text}" if self.source == "floor" else text


@dataclasses.dataclass(frozen=True)
class Clock:
    """Estimates the hours of the stages of a script.

    Args:
      figures: `measured_figures`.
    """

    devices: Devices
    stages: Sequence[Stage]
    shapes: Models
    figures: Mapping[str, Any]

    def time(self, stage: Stage) -> Hours:
        """Estimates the hours of a stage."""
        measured = self.figures.get(f"quickstart {stage.name}") if work.is_miniature(stage) else None
        if measured:
            return Hours(measured["seconds"] / _HOUR, "measured")
        if not list(models.fields(stage.config)):
            return Hours(0.0)
        seconds = self._measured(stage) / self.devices.count
        if not math.isnan(seconds):
            return Hours(seconds / _HOUR, "measured")
        if stage.config.precision.compute_dtype != "bfloat16":  # the dtype of the peak rates
            return Hours(math.nan)
        return Hours(self._floor(stage) / _HOUR, "floor")

    # --- from benchmarks ---------------------------------------------------------------------------------------------

    def _measured(self, stage: Stage) -> float:
        """Returns the seconds on one device from benchmarks of its kind; NaN without them."""
        config, size = stage.config, "miniature" if work.is_miniature(stage) else "7B"
        name = {"sft": "sft_step", "reward_model": "sft_step", "ppo": "ppo_step"}.get(config.task, "generate")
        row = self.figures.get(f"{name} {size}")
        if row is None:
            return math.nan
        notes = row["notes"]
        if name == "sft_step":
            passes = 3 - _has_adapters(config)
            flops = 2 * passes * self.shapes.num_parameters(config.model) * self._training_tokens(stage)
            return flops / (notes["TFLOP/s"] * 1e12)
        if name == "ppo_step":
            layers = self.shapes.config_of(config.policy).num_layers / notes["layers"]
            return config.ppo.num_steps * row["seconds"] * layers * config.ppo.rollout_batch_size / notes["episodes"]
        return self._paragraphs(stage) * min(work.PARAGRAPH, config.max_new_tokens) / notes["tokens per second"]

    # --- from peak rates ---------------------------------------------------------------------------------------------

    def _floor(self, stage: Stage) -> float:
        """Returns the seconds on all devices at their peak rates."""
        config = stage.config
        if config.task == "ppo":
            return self._ppo(config)
        if config.task in ("sft", "reward_model", "pretrain"):
            return self._compute(self._training_tokens(stage), config.model, self._passes(config))
        sizes = (work.prompt_tokens(config), config.max_new_tokens, config.batch_size)
        return self._generate(config.model, self._paragraphs(stage), sizes, config.mesh.tensor)

    def _ppo(self, config: Any) -> float:
        """Returns the seconds of rollout, reading, log-probabilities and update of all steps, and of validation."""
        ppo = config.ppo
        episodes, tokens = ppo.rollout_batch_size, ppo.rollout_batch_size * (ppo.query_length + ppo.response_length)
        critic = [config.critic] if ppo.baseline.startswith("critic") else []
        step = self._rollout(config, episodes)
        step += sum(self._compute(tokens, path) for path in (config.policy, config.policy, *critic))
        step += sum(
            ppo.num_epochs * self._compute(tokens, path, self._passes(config)) for path in (config.policy, *critic)
        )
        validations = ppo.num_steps // ppo.eval_every if ppo.eval_every and ppo.num_validation else 0
        return ppo.num_steps * step + validations * self._rollout(config, ppo.num_validation)

    def _rollout(self, config: Any, episodes: int) -> float:
        """Returns the seconds to generate paragraphs and to read them."""
        ppo, read, tensor = config.ppo, config.reader, config.mesh.tensor
        sizes = (ppo.query_length, ppo.response_length, ppo.decode_batch_size or 64)
        seconds = self._generate(config.policy, episodes, sizes, tensor)
        if read.kind == "rules":
            return seconds
        if read.extractor:
            sizes = (work.READER_PROMPT, work.ANSWER, read.batch_size)
            seconds += self._generate(read.extractor, episodes, sizes, tensor)
        answers = 1 + NUM_ANSWERS * bool(read.extractor)
        return seconds + self._compute(episodes * (work.READER_PROMPT + answers * work.ANSWER), read.forecaster)

    def _generate(self, path: str, rows: float, sizes: tuple[int, int, int], tensor: int) -> float:
        """Returns the seconds of generation for `rows` prompts.

        Args:
          sizes: tokens of a prompt and of a completion, and rows of a batch.
          tensor: number of devices over which the weights are split.
        """
        prompt, length, batch = sizes
        devices, params, config = self.devices, self.shapes.num_parameters(path), self.shapes.config_of(path)
        cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * _KV_BYTES * (prompt + length / 2)
        compute = 2 * params * batch / devices.count / devices.flops
        reading = (2 * params / max(tensor, 1) + batch * cache / devices.count) / devices.bandwidth
        return self._compute(rows * prompt, path) + math.ceil(rows / batch) * length * max(compute, reading)

    def _compute(self, tokens: float, path: str, passes: int = 1) -> float:
        """Returns the seconds of `passes` forward passes."""
        return passes * 2 * self.shapes.num_parameters(path) * tokens / (self.devices.count * self.devices.flops)

    # --- amount of work ----------------------------------------------------------------------------------------------

    def _passes(self, config: Any) -> int:
        """Returns the cost of training in forward passes: forward, backward (two), and forward again with remat.

        With adapters the backward pass is one, as frozen matrices need no gradient.
        """
        return 3 - _has_adapters(config) + (config.precision.remat == "full")

    def _training_tokens(self, stage: Stage) -> float:
        config = stage.config
        each = 1 + NUM_ANSWERS if config.data.recipe == "forecast_probs" else 1
        return (
            work.num_rows(stage, self.stages)
            * each
            * min(work.SEQUENCE[config.task], config.data.max_length)
            * config.fit.num_epochs
        )

    def _paragraphs(self, stage: Stage) -> float:
        return (
            work.num_rows(stage, self.stages)
            * work.num_candidates(stage, self.stages)
            * stage.config.get("num_samples", 1)
        )


def _has_adapters(config: Any) -> bool:
    """Returns whether a training is of low-rank adapters."""
    return "lora" in config and config.lora.rank > 0


def measured_figures(folder: Path, kind: str) -> dict[str, Any]:
    """Loads {"benchmark size": its first row} from the JSON files of benchmarks; later files replace earlier ones.

    From the quickstart's file it loads {"quickstart STAGE": row} for every stage.

    Args:
      kind: kind of devices; figures of others are ignored.
    """
    figures: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        device = kind_of(str(record.get("hardware", {}).get("device", "")))
        if not (record.get("rows") and record.get("size") and device == kind):
            continue
        if record["benchmark"] == "quickstart":
            figures |= {f"quickstart {row['name']}": row for row in record["rows"]}
        else:
            figures[f"{record['benchmark']} {record['size']['name']}"] = record["rows"][0]
    return figures
