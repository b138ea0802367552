"""A PPO step on random weights, phase by phase: generate, read, logprobs, update; next to TRL's where that installs.

On a CPU the reader is one reward model over prompt and response, as TRL has it. With an accelerator's settings it is
the method's: an extractor writes answers to each response, and the reward model reads it once with two behind it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import models, report, trl_peer
from lc_jax import parallel
from lc_jax.inference import generate, score
from lc_jax.models.transformer import Model, trainable
from lc_jax.rl import advantage, batch, rollout, update
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.loss import LossSettings
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

OPTIMIZER = OptimizerSettings(1e-5, 100, 0, "constant", 0.9, 0.999, 1e-5, 0.01, 1.0)
ANSWERS = 2  # extracted from a response, with an accelerator's settings
ANSWER_TOKENS = 32


@dataclasses.dataclass
class Step:
    """The models, and one PPO step over them."""

    actor_critic: ActorCritic  # structure
    state: states.TrainState
    tx: Any
    reference: Model
    reward: Model
    extractor: Model | None
    prompts: list[list[int]]
    response: int
    sizes: update.UpdateSettings
    decode_batch: int

    def _generate(self) -> list[generate.Completion]:
        policy = self.actor_critic.with_params(self.state.params).policy
        sampling = generate.Sampling(self.response)
        return generate.generate(policy, self.prompts, sampling, seed=0, batch_size=self.decode_batch)

    def _read(self, completions: Sequence[generate.Completion]) -> np.ndarray:
        texts = [prompt + c.tokens for prompt, c in zip(self.prompts, completions, strict=True)]
        groups = [[text] for text in texts]
        if self.extractor is not None:
            sampling = generate.Sampling(min(ANSWER_TOKENS, self.response))
            answers = generate.generate(self.extractor, texts, sampling, seed=1, batch_size=self.decode_batch)
            most = len(texts[0]) // 8
            groups = [[t, *[t + c.tokens[:most]] * ANSWERS] for c, t in zip(answers, texts, strict=True)]
        rewards = score.group_rewards(self.reward, groups, batch_size=self.sizes.microbatch_size)
        return np.asarray([values[0] for values in rewards])

    def _logprobs(self, completions: Sequence[generate.Completion]) -> batch.Episodes:
        models_ = self.actor_critic.with_params(self.state.params)
        episodes = batch.pack(self.prompts, completions)
        groups = episodes.first_microbatches(self.sizes.minibatch_size, self.sizes.microbatch_size, 0)
        return rollout.score_rollout(
            models_.policy, self.reference, models_.critic, episodes, temperature=1.0, groups=groups
        )

    def _update(self, episodes: batch.Episodes, scores: np.ndarray) -> None:
        episodes, _ = advantage.estimate(episodes, scores, 0.1, advantage.AdvantageSettings())
        self.state, stats = update.update(
            self.state, self.actor_critic, episodes, tx=self.tx, settings=self.sizes, seed=0
        )
        if not np.isfinite(stats[0]["loss"]) or stats[0]["policy/ratio_deviation"] > 1e-2:
            raise ArithmeticError(f"the first update of a rollout has {stats[0]}")

    def __call__(self) -> dict[str, float]:
        """Runs the step; seconds by phase."""
        seconds: dict[str, float] = {}

        def timed(name: str, phase: Callable[..., Any], *args: Any) -> Any:
            started = time.perf_counter()
            out = phase(*args)
            jax.block_until_ready(self.state.step)
            seconds[name] = time.perf_counter() - started
            return out

        completions = timed("generate", self._generate)
        scores = timed("read", self._read, completions)
        episodes = timed("logprobs", self._logprobs, completions)
        timed("update", self._update, episodes, scores)
        return seconds


def build(size: report.Size, mesh: jax.sharding.Mesh, layers: int | None = None) -> Step:
    """Models with random weights, and the settings of the step."""
    config = models.config_of(size)
    config = models.with_layers(config, layers or config.num_layers)
    frozen = dataclasses.replace(config, param_dtype=config.compute_dtype, remat="none")
    policy, critic = models.random_model(config, mesh), models.random_model(config, mesh, 1, "scalar")
    actor_critic = ActorCritic(policy, critic)
    tx = make_optimizer(OPTIMIZER, trainable(actor_critic.params()))
    count = 512 if size is report.LARGE else size.batch
    prompts = [row.tolist() for row in models.random_tokens(config, count, size.prompt)]
    extractor = models.random_model(frozen, mesh, 4) if size.remat != "none" else None
    return Step(
        actor_critic.with_params(None), states.create(actor_critic.params(), tx), tx,
        models.random_model(frozen, mesh), models.random_model(frozen, mesh, 3, "scalar"), extractor,
        prompts, size.response, update.UpdateSettings(1, count, min(32, count), 1.0, LossSettings()), size.batch,
    )  # fmt: skip


def floors(step: Step, size: report.Size, machine: report.Machine) -> dict[str, float]:
    """Returns the least seconds of each phase (roofline), without rematerialisation, which is the implementation's."""
    config, count, width = step.reference.config, len(step.prompts), size.prompt + size.response
    logits = count * size.response

    def forward(batch: int, length: int, heads: int) -> float:
        return machine.floor(models.forward_flops(config, batch, length, heads))

    waves = count / step.decode_batch
    seconds = {
        "generate": forward(count, size.prompt, count)
        + waves * models.decode_floor(machine, config, step.decode_batch, size.prompt, size.response),
        "read": forward(count, width, 0),
        "logprobs": 2 * forward(count, width, logits) + forward(count, width, 0),
        "update": 3 * (forward(count, width, logits) + forward(count, width, 0)),
    }
    if step.extractor is not None:
        answer = min(ANSWER_TOKENS, size.response)
        tail = min(answer, width // 8)
        seconds["read"] += (
            forward(count, width, count) + forward(count, width + ANSWERS * tail, 0) - forward(count, width, 0)
        )
        seconds["read"] += waves * models.decode_floor(machine, config, step.decode_batch, width, answer)
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = report.arguments(__doc__ or "", argv)
    size, mesh = args.size, parallel.make_mesh()
    with jax.set_mesh(mesh):
        step = build(size, mesh)
        machine = report.Machine.measured(size)
        times = [step()]  # which compiles
        peer = None
        if trl_peer.available() and size.remat == "none":
            prompts = np.asarray(step.prompts, np.int32)
            policy = models.random_model(step.reference.config, mesh)
            theirs = trl_peer.seconds_a_step(
                policy, prompts, size.response, step.sizes.microbatch_size, size.repeats, lambda: times.append(step())
            )
            peer = statistics.median(theirs)
        times += [step() for _ in range(size.repeats + 1 - len(times))]
    least = floors(step, size, machine)
    phases = {name: statistics.median(t[name] for t in times[1:]) for name in times[0]}
    total = statistics.median(sum(t.values()) for t in times[1:])
    stats = jax.devices()[0].memory_stats() or {}
    notes = {
        "episodes": len(step.prompts),
        "layers": step.reference.config.num_layers,
        "peak GB": stats.get("peak_bytes_in_use", 0) / 1e9 or "unknown",
        "times the sum of floors": total / sum(least.values()),
    }
    rows = [report.Row("whole step", total, "TRL", peer, sum(least.values()), notes)]
    rows += [report.Row(name, seconds, floor_seconds=least[name]) for name, seconds in phases.items()]
    report.finish("ppo_step", args, machine, rows)


if __name__ == "__main__":
    main()
