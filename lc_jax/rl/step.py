"""One step of PPO (paper section 5) as a function of records: write, read, score, estimate advantages, update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from lc_jax import parallel
from lc_jax.activations import noise_rows
from lc_jax.inference.generate import Completion
from lc_jax.models.transformer import Model
from lc_jax.rl import (
    advantage,
    batch,
    confidence_tokens,
    consistency,
    kl,
    objective,
    outcomes,
    reward,
    rollout,
    telemetry,
    update,
)
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.reader import Reader, RulesReader
from lc_jax.rl.settings import PPOSettings
from lc_jax.rl.writer import PolicyWriter
from lc_jax.training import state as states
from lc_jax.training.optimizer import Optimizer, OptimizerSettings
from lc_jax.types import Question


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Constants of all steps: the models that are not trained, and all settings."""

    writer: PolicyWriter
    reader: Reader | RulesReader
    reference: Model
    structure: ActorCritic  # what is trained, without its parameters
    optimizer: OptimizerSettings
    tx: Optimizer  # of `optimizer`
    ppo: PPOSettings
    reward: reward.RewardSettings
    advantage: advantage.AdvantageSettings
    loss: LossSettings
    seed: int

    @property
    def update_settings(self) -> update.UpdateSettings:
        """The sizes of an update."""
        ppo = self.ppo
        return update.UpdateSettings(
            ppo.num_epochs, ppo.minibatch_size, ppo.microbatch_size, ppo.temperature, self.loss
        )

    @property
    def response_width(self) -> int | None:
        """Response positions of published statistics, which count padding; None: as many as the longest needs."""
        return None if self.advantage.masked and self.loss.masked else self.ppo.response_length

    def with_frozen_in(self, memory_kind: str | None) -> Trainer:
        """Returns the trainer with reader and reference in another memory kind, where ppo.frozen_on_host is set.

        Models with adapters stay: what they share with the policy is needed all the time.
        """
        if not self.ppo.frozen_on_host:
            return self

        def move(model: Model) -> Model:
            return model if model.frozen is not None else parallel.to_memory_kind(model, memory_kind)

        return dataclasses.replace(self, reader=self.reader.with_models(move), reference=move(self.reference))

    def describe(self, state: states.TrainState, first: int) -> None:
        """Logs the sizes that are in effect, from step `first` on."""
        ppo = self.ppo
        logging.info(
            "%d trained parameters; steps %d to %d of %d episodes (%d questions, %d samples each), %d updates a step "
            "of %d episodes in micro-batches of %d; prompts of at most %d tokens, responses of at most %d",
            sum(leaf.size for leaf in jax.tree.leaves(state.params)), first, ppo.num_steps, ppo.rollout_batch_size,
            ppo.rollout_batch_size // ppo.num_samples, ppo.num_samples, ppo.updates_per_step, ppo.minibatch_size,
            ppo.microbatch_size, ppo.query_length, ppo.response_length,
        )  # fmt: skip
        for warning in objective.warnings(ppo, self.reward, self.advantage, self.loss):
            logging.warning("%s", warning)

    def policy(self, state: states.TrainState) -> Model:
        """Returns the policy with the parameters of `state`."""
        return self.structure.with_params(state.params).policy


@dataclasses.dataclass(frozen=True)
class Step:
    """Results of one step."""

    state: states.TrainState
    controller: kl.Controller
    stats: dict[str, Any]
    episodes: batch.Episodes
    rows: list[dict[str, Any]]  # of the rollout log


def step(
    trainer: Trainer, state: states.TrainState, controller: kl.Controller, questions: Sequence[Question], number: int
) -> Step:
    """Trains policy and critic on one rollout; donates `state`.

    Args:
      questions: one for each episode, a question `ppo.num_samples` times in a row.
      number: of the step, which sampling and the order of episodes depend on.

    Raises:
      FloatingPointError: a reward, log-probability or value is not finite (names the question), sampling, scoring and
        update disagree (`consistency.Limits`), or `states.MAX_SKIPPED` gradients in a row are not finite.
    """
    ppo, phases, on_devices = trainer.ppo, telemetry.Phases(), trainer.with_frozen_in(None)
    seed, where = trainer.seed * 1_000_003 + number, f"at step {number}"
    models = trainer.structure.with_params(state.params)
    with phases.measure("generate"):
        prompts = [trainer.writer.encode(q) for q in questions]
        completions = trainer.writer.write(models.policy, questions, prompts, seed)
        paragraphs = trainer.writer.decode(completions, ppo.clean_up)
        finished = [c.finished for c in completions]
    with phases.measure("read"):
        reading = on_devices.reader.read(questions, paragraphs, seed)
        outcome = outcomes.of(questions, reading.answers, reading.forecasts.answer_mask.shape[1])
        rewards = reward.compute(reading.forecasts, outcome, trainer.reward)
        rewards = reward.penalize_unreadable(rewards, reading.refusals, trainer.reward)
        telemetry.check_episodes(where, questions, {"reward": rewards.total})
    with phases.measure("logprobs"):
        critic_prompts = trainer.writer.encode_for_critic(questions)
        episodes = batch.pack(prompts, completions, trainer.response_width, critic_prompts, ppo.num_samples)
        # In the update's first micro-batches, so that both round alike: before it the ratio is 1.
        groups = episodes.first_microbatches(ppo.minibatch_size, ppo.microbatch_size, seed)
        episodes = rollout.score_rollout(
            models.policy, on_devices.reference, models.critic, episodes, temperature=ppo.temperature, groups=groups
        )
        telemetry.check_rollout(where, questions, episodes)
        noise = consistency.rounding_noise(models.policy, episodes, noise_rows(ppo.microbatch_size), ppo.temperature)
        limits = consistency.Limits.of(
            noise, max_ratio_deviation=ppo.max_ratio_deviation, max_sampling_gap=ppo.max_sampling_gap
        )
        gap = consistency.SamplingGap.of(episodes, completions)
        limits.check_sampling(gap)
        others = np.zeros_like(rewards.total)
        if ppo.baseline == "counterfactual":
            others = reward.counterfactual(reading.forecasts, outcome, trainer.reward, ppo.num_samples)
        compared = advantage.comparison_groups(ppo.baseline, ppo.num_samples, reading.top_answers())
        episodes, explained = _advantages(
            trainer, episodes, rewards, completions, controller.coefficient, compared, others
        )
    with phases.measure("update"):
        del models, on_devices  # the update donates the parameters, and needs the memory of the frozen models
        state, updates = update.update(
            state, trainer.structure, episodes, tx=trainer.tx, settings=trainer.update_settings, seed=seed
        )
    limits.check_ratio(updates[0]["policy/ratio_deviation"])
    _check_gradients(updates, ppo)
    stats: dict[str, Any] = telemetry.of_rollout(episodes, finished)
    controller = controller.observe(stats["kl"])
    stats |= {"rollout/sampling_gap": gap.mean, "rollout/sampling_gap_p99": gap.p99}
    stats |= {"kl_coef": controller.coefficient, "advantage/explained_variance": explained}
    stats["learning_rate"] = float(trainer.optimizer.learning_rate_at(states.last_update(state)))
    stats |= {name: float(np.mean([s[name] for s in updates])) for name in updates[0]}
    num_tokens = int((episodes.prompt_lengths + episodes.lengths).sum())
    stats |= telemetry.of_reading(reading, rewards) | phases.report(num_tokens)
    rows = list(telemetry.episode_rows(questions, paragraphs, reading, rewards))
    return Step(state, controller, stats, episodes, rows)


def _advantages(
    trainer: Trainer,
    episodes: batch.Episodes,
    rewards: reward.Rewards,
    completions: Sequence[Completion],
    kl_coef: float,
    groups: np.ndarray | None,
    counterfactual: np.ndarray,
) -> tuple[batch.Episodes, float]:
    """Returns the rollout with advantages, of all tokens or by what they state, and the explained variance.

    Args:
      counterfactual: baseline of each score, [B]; 0 where `groups` or a critic is the baseline.

    Raises:
      ValueError: answers are to be trained by a part of the reward that a user's own reward does not have.
    """
    ppo, settings = trainer.ppo, trainer.advantage
    finished = np.asarray([c.finished or not ppo.stop_penalty for c in completions])
    scores = reward.penalize_unstopped(rewards.total, finished) - counterfactual
    estimator = functools.partial(
        advantage.estimate, episodes, kl_coef=kl_coef, settings=settings, groups=groups, baseline=ppo.baseline
    )
    if settings.tokens == "all":
        return estimator(scores)
    answer_scores = None
    if settings.tokens == "decoupled":
        if "correctness" not in rewards.parts:
            raise ValueError(
                f"--config.advantage.tokens=decoupled: the reward {trainer.reward.name} has no part 'correctness' "
                "for the answers; add one to its Rewards.parts, or give tokens=all."
            )
        answer_scores = reward.penalize_unstopped(rewards.parts["correctness"], finished)
    responses, length = [c.tokens for c in completions], episodes.mask.shape[1]
    is_confidence = confidence_tokens.mask(responses, trainer.writer.tokenizer.decode, length)
    return advantage.by_token(estimator, scores, answer_scores, is_confidence)


def _check_gradients(updates: Sequence[dict[str, float]], ppo: PPOSettings) -> None:
    """Stops a run whose gradients are not finite time after time."""
    limit = min(states.MAX_SKIPPED, ppo.num_steps * ppo.updates_per_step)
    if updates[-1]["skipped_in_a_row"] >= limit:
        raise FloatingPointError(
            f"{limit} gradients in a row were not finite; the last checkpoint is from before. Lower "
            "--config.optimizer.learning_rate."
        )


def validate(
    trainer: Trainer, state: states.TrainState, questions: Sequence[Question], top_p: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the mean reward of validation questions, without offset and KL, and a row for each paragraph.

    The seed is the same every time, so that evaluations can be compared.

    Args:
      top_p: with which the extractor samples.
    """
    prompts = [trainer.writer.encode(q) for q in questions]
    completions = trainer.writer.write(trainer.policy(state), questions, prompts, trainer.seed)
    paragraphs = trainer.writer.decode(completions)
    reader = trainer.with_frozen_in(None).reader.with_sampling(top_k=0, top_p=top_p)
    reading = reader.read(questions, paragraphs, trainer.seed)
    outcome = outcomes.of(questions, reading.answers, reading.forecasts.answer_mask.shape[1])
    without_offset = dataclasses.replace(trainer.reward, offset=0.0)
    rewards = reward.compute(reading.forecasts, outcome, without_offset)
    rewards = reward.penalize_unreadable(rewards, reading.refusals, without_offset)
    telemetry.check_episodes("in validation", questions, {"reward": rewards.total})
    stats = {f"eval_{name}": value for name, value in telemetry.of_reading(reading, rewards).items()}
    stats["eval_stop_rate"] = float(np.mean([c.finished for c in completions]))
    return stats, list(telemetry.episode_rows(questions, paragraphs, reading, rewards))
