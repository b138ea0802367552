"""PPO on a reward from a reader's forecasts: LC RL (decision-based) and Factuality RL (paper section 4.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lc_jax import parallel, prompts
from lc_jax.data.questions import load_train_and_validation
from lc_jax.inference import generate
from lc_jax.models import folders, hf
from lc_jax.models.transformer import Model, trainable
from lc_jax.preflight import check_all
from lc_jax.rl import advantage, batch, consistency, kl, reader, reward, rollout, telemetry, verify, writer
from lc_jax.rl import plan as plans
from lc_jax.rl import update as updates
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.settings import PPOSettings, queries
from lc_jax.training import advice, checks
from lc_jax.training import state as states
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.exports import Candidate, Candidates, Exports
from lc_jax.training.logging import Run, RunDirectory, announce
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from lc_jax.types import Question

SAMPLES = 8  # validation paragraphs that are shown in W&B


def load_reader(config: ConfigDict, mesh: jax.sharding.Mesh) -> reader.Reader:
    """The surrogate reader of `config.reader`."""
    templates = prompts.load_templates(config.templates, config.prompt_dir)
    return reader.load(config.reader.to_dict(), templates, mesh, reader.frozen(config.precision))


class Trainer:
    """The models and settings of one run; `step` is PPO, the rest is what goes on around it.

    Raises:
      FileNotFoundError: a model or question file is not there, before anything is loaded.
    """

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
        self.config, self.ppo = config, PPOSettings(**config.ppo)
        uses_critic = self.ppo.uses_critic
        paths = [config.policy, config.reader.forecaster, config.reader.extractor, config.critic if uses_critic else ""]
        folders.check(*filter(None, paths))
        self.writer = writer.load(config.policy, prompts.load_templates(config.templates, config.prompt_dir), self.ppo)
        self.questions, self.validation = load_both_questions(config)
        self.questions = self._within_query_length()
        self.reward = reward.RewardSettings(**config.reward)
        self.advantage = advantage.AdvantageSettings(**config.advantage)
        self.advantage.check(self.ppo.rollout_batch_size)
        self.update = updates.UpdateSettings(
            self.ppo.num_epochs, self.ppo.minibatch_size, self.ppo.microbatch_size, self.ppo.temperature,
            LossSettings(**config.loss),
        )  # fmt: skip
        self.kl = kl.make(coefficient=self.ppo.kl_coef, **config.kl)
        policy = hf.load(config.policy, mesh, **config.precision)
        critic = (
            hf.load(config.critic, mesh, kind="scalar", fresh_head=True, **config.precision) if uses_critic else None
        )
        self.reference = hf.load(config.policy, mesh, **reader.frozen(config.precision))
        self.reader = load_reader(config, mesh)
        actor_critic = updates.ActorCritic(policy, critic)
        self.optimizer = OptimizerSettings.from_ratio(
            self.ppo.num_steps * self.ppo.updates_per_step, **config.optimizer
        )
        self.tx = make_optimizer(self.optimizer, trainable=trainable(actor_critic.params()))
        self.state = states.create(actor_critic.params(), self.tx)
        self.actor_critic = actor_critic.with_params(None)  # the parameters are the state's from here on

    def _within_query_length(self) -> list[Question]:
        """Training questions whose prompts fit; longer ones are left out, with a count, and stay in evaluation."""
        lengths = [len(self.writer.encode(q)) for q in self.questions]
        fitting = [q for q, length in zip(self.questions, lengths, strict=True) if length <= self.ppo.query_length]
        if not fitting:
            raise ValueError(
                f"Every training prompt is longer than --config.ppo.query_length={self.ppo.query_length} tokens: give "
                f"{max(lengths)}, the length of the longest, or at least {min(lengths)}, that of the shortest."
            )
        long = len(self.questions) - len(fitting)
        logging.info("%d training questions; %d prompts are over %d tokens", len(fitting), long, self.ppo.query_length)
        self.ppo.check_questions(len(fitting))
        return fitting

    def step(self, questions: Sequence[Question], step: int) -> tuple[dict[str, Any], tuple]:
        """PPO step number `step`, on `questions`. Returns its statistics, and what the rollout log wants to see.

        Raises:
          FloatingPointError: a reward, log-probability or value is not finite; names the question and the step.
        """
        phases, seed = telemetry.Phases(), self.config.seed * 1_000_003 + step
        where = f"at step {step}"
        models = self.actor_critic.with_params(self.state.params)
        with phases.measure("generate"):
            prompt_ids = [self.writer.encode(q) for q in questions]
            completions = self.writer.write(models.policy, questions, prompt_ids, seed)
            paragraphs = self.writer.decode(completions, self.ppo.clean_up)
        with phases.measure("read"):
            reading = self.reader.read(questions, paragraphs, seed)
            rewards = reward.compute(reading.forecasts, self.reward)
            scores = rewards.total
            telemetry.check_episodes(where, questions, {"reward": scores})
            if self.ppo.stop_penalty:
                scores = reward.penalize_unstopped(scores, np.asarray([c.finished for c in completions]))
        with phases.measure("logprobs"):
            episodes = batch.pack(
                prompt_ids, completions, self._response_width(), self.writer.encode_for_critic(questions)
            )
            episodes = rollout.score_rollout(
                models.policy, self.reference, models.critic, episodes,
                temperature=self.ppo.temperature, groups=updates.first_epoch(episodes, self.update, seed),
            )  # fmt: skip
            telemetry.check_rollout(where, questions, episodes)
            limits, gap = self._limits(models.policy, episodes), consistency.SamplingGap.of(episodes, completions)
            limits.check_sampling(gap)
            groups = advantage.comparison_groups(self.ppo.baseline, self.ppo.num_samples, reading.top_answers())
            episodes, explained = advantage.estimate(episodes, scores, self.kl.coefficient, self.advantage, groups)
        with phases.measure("update"):
            del models  # the update donates the parameters
            self._move_frozen("pinned_host")
            self.state, updated = updates.update(
                self.state, self.actor_critic, episodes, tx=self.tx, settings=self.update, seed=seed
            )
            self._move_frozen(None)
        limits.check_ratio(updated[0]["policy/ratio_deviation"])
        self._check_gradients(updated)
        stats = telemetry.of_rollout(episodes, [c.finished for c in completions])
        stats |= {"rollout/sampling_gap": gap.mean, "rollout/sampling_gap_p99": gap.p99}
        self.kl = self.kl.observe(stats["kl"])
        means = {name: float(np.mean([s[name] for s in updated])) for name in updated[0]}
        num_tokens = int((episodes.prompt_lengths + episodes.lengths).sum())
        stats["learning_rate"] = float(self.optimizer.learning_rate_at(states.last_update(self.state)))
        stats |= {"kl_coef": self.kl.coefficient, "advantage/explained_variance": explained}
        stats |= means | telemetry.of_reading(reading, rewards) | phases.report(num_tokens)
        return stats, (questions, paragraphs, reading, rewards)

    def _move_frozen(self, kind: str | None) -> None:
        """Moves the models that are not trained into the host's memory, or (None) back, where the config says so."""
        if self.ppo.frozen_on_host:
            self.reference = parallel.to_memory_kind(self.reference, kind)
            self.reader = self.reader.with_models(lambda model: parallel.to_memory_kind(model, kind))

    def _response_width(self) -> int | None:
        """The published statistics count padding up to the response length; ours need no padding beyond the longest."""
        masked = self.advantage.masked and self.update.loss.masked
        return None if masked else self.ppo.response_length

    def _limits(self, policy: Model, episodes: batch.Episodes) -> consistency.Limits:
        """How far sampling, scoring and the first update may be apart, from the policy's own rounding."""
        noise = consistency.rounding_noise(policy, episodes, self.update.microbatch_size, self.ppo.temperature)
        ratio, gap = self.ppo.max_ratio_deviation, self.ppo.max_sampling_gap
        return consistency.Limits.of(noise, max_ratio_deviation=ratio, max_sampling_gap=gap)

    def _check_gradients(self, updated: Sequence[dict]) -> None:
        """Stops a run whose gradients are not finite time after time."""
        most = min(states.MAX_SKIPPED, self.ppo.num_steps * self.ppo.updates_per_step)
        if updated[-1]["skipped_in_a_row"] >= most:
            raise FloatingPointError(
                f"{most} gradients in a row were not finite; the last checkpoint is from before. Lower "
                "--config.optimizer.learning_rate."
            )

    def evaluate(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Mean surrogate reward over the validation questions, without offset and KL; the same seed every time.

        Returns the statistics, and a row for each paragraph that was written and read.
        """
        policy = self.actor_critic.with_params(self.state.params).policy
        prompt_ids = [self.writer.encode(q) for q in self.validation]
        completions = self.writer.write(policy, self.validation, prompt_ids, self.config.seed)
        validating = self.reader.with_sampling(top_k=0, top_p=self.config.reader.validation_top_p)
        paragraphs = self.writer.decode(completions)
        reading = validating.read(self.validation, paragraphs, self.config.seed)
        rewards = reward.compute(reading.forecasts, dataclasses.replace(self.reward, offset=0.0))
        telemetry.check_episodes("in validation", self.validation, {"reward": rewards.total})
        stop_rate = float(np.mean([c.finished for c in completions]))
        stats = {f"eval_{k}": v for k, v in telemetry.of_reading(reading, rewards).items()}
        rows = list(telemetry.episode_rows(self.validation, paragraphs, reading, rewards))
        return stats | {"eval_stop_rate": stop_rate}, rows

    def alarms(self) -> telemetry.Alarms:
        """Those of the config; a reader without an extractor finds no answers, which is no cause for one."""
        alarms = telemetry.Alarms(**self.config.alarms)
        return alarms if self.reader.extractor else dataclasses.replace(alarms, max_no_answer_rate=1.0)

    def describe(self, first: int) -> None:
        """Logs the sizes that are in effect."""
        ppo = self.ppo
        logging.info(
            "%d trained parameters; steps %d to %d of %d episodes (%d questions, %d samples each), %d updates a step "
            "of %d episodes in micro-batches of %d; prompts of at most %d tokens, responses of at most %d",
            sum(leaf.size for leaf in jax.tree.leaves(self.state.params)), first, ppo.num_steps, ppo.rollout_batch_size,
            ppo.rollout_batch_size // ppo.num_samples, ppo.num_samples, ppo.updates_per_step, ppo.minibatch_size,
            self.update.microbatch_size, ppo.query_length, ppo.response_length,
        )  # fmt: skip

    def policy(self) -> Model:
        """The policy as it is now."""
        return self.actor_critic.with_params(self.state.params).policy

    def save(self, folder: Path) -> None:
        """Writes the policy as a Hugging Face checkpoint."""
        hf.save(folder, self.policy(), tokenizer=self.writer.tokenizer, dtype=self.config.export_dtype or None)

    def checkpoint(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"train": self.state, "kl_coef": jnp.float32(self.kl.coefficient)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from `checkpoint`."""
        self.state = saved["train"]
        self.kl = dataclasses.replace(self.kl, coefficient=float(saved["kl_coef"]))


def load_both_questions(config: ConfigDict) -> tuple[list[Question], list[Question]]:
    """The questions of training and of validation, none of them in both."""
    return load_train_and_validation(config.questions, config.validation, config.ppo.num_validation, config.seed)


def check(config: ConfigDict) -> None:
    """Refuses settings, folders and files that PPO cannot be run from, all of them at once."""
    uses_critic, read = str(config.ppo.baseline).startswith("critic"), config.reader

    def model(name: str, path: str, kind: str = "causal") -> None:
        checks.check_model(name, path, kind, dry_run=config.dry_run)

    def questions() -> None:
        train, _ = load_both_questions(config)
        PPOSettings(**config.ppo).check_questions(len(train))

    def templates() -> None:
        found = prompts.load_templates(config.templates, config.prompt_dir)
        names = [field.name for field in dataclasses.fields(found)]
        if read.template not in names:
            raise ValueError(f"--config.reader.template={read.template}: give one of {', '.join(names)}.")

    check_all(
        lambda: PPOSettings(**config.ppo),
        *checks.run_checks(config.to_dict()),
        lambda: reward.RewardSettings(**config.reward),
        lambda: advantage.AdvantageSettings(**config.advantage).check(config.ppo.rollout_batch_size),
        lambda: LossSettings(**config.loss),
        lambda: kl.KLSettings(**config.kl),
        lambda: telemetry.Alarms(**config.alarms),
        lambda: reader.check(read, read.extractor),
        templates,
        lambda: model("policy", config.policy),
        lambda: model("critic", config.critic, "scalar") if uses_critic else None,
        lambda: model("reader.forecaster", read.forecaster, "scalar"),
        lambda: model("reader.extractor", read.extractor) if read.extractor else None,
        lambda: checks.check_same_tokens(config.policy, config.critic) if uses_critic else None,
        *([] if config.dry_run else [questions]),
    )


def planned(config: ConfigDict, mesh: parallel.AnyMesh) -> plans.plan.Plan:
    """The memory plan; batch sizes of 0 in `config` are set to what fits."""
    ppo, read = PPOSettings(**config.ppo), config.reader

    def outline(name: str, kind: str = "causal", **precision: str) -> Model:
        return plans.plan.outline(name, mesh, kind, **precision)

    critic = outline(config.critic, "scalar", **config.precision) if ppo.uses_critic else None
    models = plans.Models(
        updates.ActorCritic(outline(config.policy, **config.precision), critic),
        outline(config.policy, **reader.frozen(config.precision)),
        outline(read.extractor, **reader.frozen(config.precision)) if read.extractor else None,
        outline(read.forecaster, "scalar", **reader.frozen(config.precision)),
    )
    sizes = plans.Sizes(
        ppo.query_length,
        generate.Sampling(ppo.response_length, ppo.temperature),
        ppo.decode_batch_size,
        updates.UpdateSettings(
            ppo.num_epochs, ppo.minibatch_size, ppo.microbatch_size, ppo.temperature, LossSettings(**config.loss)
        ),
        read.max_length,
        generate.Sampling(read.max_new_tokens, read.temperature) if read.extractor else None,
        read.batch_size,
        ppo.frozen_on_host,
    )
    settings = OptimizerSettings.from_ratio(1, **config.optimizer)
    sizes, plan = plans.ppo(models, sizes, make_optimizer(settings, trainable(models.actor_critic.params())))
    config.ppo.update(decode_batch_size=sizes.decode_batch_size, microbatch_size=sizes.update.microbatch_size)
    return plan


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Trains `config.policy`, leaves it in `<output>/model`, and what was written and read at every step in `<output>`.

    That is `rollouts.jsonl`, the episodes of training, and `validation.jsonl`, the validation paragraphs of every
    evaluation with the answers that they offer and the reader's probabilities.
    """
    planned(config, mesh).report()
    if config.dry_run:
        return
    trainer = Trainer(config, mesh)
    output, ppo = Path(config.output), trainer.ppo
    names = ("policy", "critic", "seed", "questions", "ppo", "kl", "reward", "reader", "loss", "advantage", "optimizer")
    run_directory = RunDirectory.of(config.to_dict(), *names, "precision")
    with Checkpoints(run_directory, every=ppo.save_every, keep=ppo.keep) as checkpoints:
        saved, first = checkpoints.restore(trainer.checkpoint(), ppo.num_steps)
        trainer.restore(saved)
        log = Run(run_directory, ppo.num_steps, first)
        rollouts, validated = (telemetry.RolloutLog(output / f"{n}.jsonl", first) for n in ("rollouts", "validation"))
        exports = Exports(output, config.export_every, lambda folder, _: trainer.save(folder))
        best, alarms = Candidates(output, ppo.num_candidates, ppo.first_candidate), trainer.alarms()
        trainer.describe(first)
        verify.require(verify.arithmetic(trainer.advantage, trainer.reward))
        questions = queries(trainer.questions, ppo, config.seed, first)
        for step in range(first, ppo.num_steps):
            stats, episodes = trainer.step(next(questions), step)
            if ppo.evaluates_after(step + 1):
                validation, rows = trainer.evaluate()
                stats |= validation
                validated.write(step, rows)
                best.offer(Candidate(step + 1, stats["eval_reward"]), trainer.save)
                log.log_samples(step, rows[:SAMPLES])
            rollouts.write(step, telemetry.episode_rows(*episodes))
            log.log(step, stats)
            log.advance()
            exports.after(step + 1, trainer.policy)
            checkpoints.save(step + 1, trainer.checkpoint(), force=step + 1 == ppo.num_steps)
            raised = alarms.of(stats)
            for words in raised:
                logging.warning("Step %d: %s (alarms in the config)", step, words)
            if raised and alarms.stop:
                raise FloatingPointError(
                    f"Stopped at step {step}: {'; '.join(raised)}. Checkpoints: {output}/checkpoints."
                )
    log.close()
    trainer.save(output / "model")
    announce(output / "model", advice.to_evaluate(config.to_dict()))
