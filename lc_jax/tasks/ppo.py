"""PPO on a reward from a reader's forecasts: LC RL (decision-based) and Factuality RL (paper section 4.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from lc_jax import parallel, prompts
from lc_jax.data import batches
from lc_jax.data.questions import check_disjoint, load_questions
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate
from lc_jax.models import folders, hf
from lc_jax.models.transformer import Model, trainable
from lc_jax.rl import advantage, kl, reader, reward, rollout, telemetry
from lc_jax.rl import plan as plans
from lc_jax.rl import update as updates
from lc_jax.rl.loss import LossSettings
from lc_jax.training import state as states
from lc_jax.training.candidates import Candidate, Candidates
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.logging import Destination, Run
from lc_jax.training.optimizer import Optimizer, OptimizerSettings, make_optimizer
from lc_jax.types import Question

MAX_SKIPPED = 5  # non-finite gradients in a row after which a run stops


@dataclasses.dataclass(frozen=True)
class Writer:
    """The policy's text side: how a question becomes its prompt, and its tokens a paragraph."""

    tokenizer: Tokenizer
    template: prompts.Prompt
    critic_template: prompts.Prompt | None  # shows the critic the true answer; None: the critic reads the same prompt
    sampling: generate.Sampling
    batch_size: int

    def encode(self, question: Question) -> list[int]:
        """The prompt's token ids."""
        prompt = self.template.prompt_text(paragraph_generation_prompt=question.prompt)
        return self.tokenizer.encode_prompt(prompt, f"question {question.question_id!r}")

    def encode_for_critic(self, question: Question) -> list[int]:
        """The critic's prompt. It may hold the truth: only the baseline depends on it, never what the policy reads."""
        if self.critic_template is None:
            return self.encode(question)
        fields = {"question": question.question, "answer": question.answer}
        text = self.critic_template.render(paragraph_generation_prompt=question.prompt, **fields)
        return self.tokenizer.encode_prompt(text)

    def write(self, policy: Model, questions: Sequence[Question], seed: int) -> list[generate.Completion]:
        """One completion per entry of `questions`; an entry that comes several times gets different samples."""
        encoded = [self.encode(q) for q in questions]
        return generate.generate(policy, encoded, self.sampling, seed=seed, batch_size=self.batch_size)

    def decode(self, completions: Sequence[generate.Completion], clean_up: bool = False) -> list[str]:
        """Paragraphs as text; `clean_up` as in `Tokenizer.decode`."""
        return [self.tokenizer.decode(c.tokens, clean_up) for c in completions]


def load_writer(config: ConfigDict) -> Writer:
    """The writer for `config.policy`."""
    tokenizer, ppo = load_tokenizer(config.policy), config.ppo
    templates = prompts.load_templates(config.templates, config.prompt_dir)
    tokenizer.add_chat_template(templates.paragraph)
    sampling = generate.Sampling(
        ppo.response_length, ppo.temperature, eos_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id
    )
    critic_template = templates.critic if ppo.baseline == "critic_with_answer" else None
    return Writer(tokenizer, templates.paragraph, critic_template, sampling, ppo.decode_batch_size)


def load_reader(config: ConfigDict, mesh: jax.sharding.Mesh) -> reader.Reader:
    """The surrogate reader of `config.reader`; without an extractor only the true answer is forecast."""
    settings, templates = config.reader, prompts.load_templates(config.templates, config.prompt_dir)

    def part(path: str, kind: str, template: prompts.Prompt) -> reader.Part:
        model = hf.load(path, mesh, kind=kind, **frozen(config))
        return reader.Part(model, load_tokenizer(path), template, settings.max_length, settings.batch_size)

    extractor = None
    if settings.extractor:
        lister = part(settings.extractor, "causal", templates.extract_answers)
        stops, pad = lister.tokenizer.stop_ids, lister.tokenizer.pad_id
        sampling = generate.Sampling(
            settings.max_new_tokens, settings.temperature, top_k=settings.top_k, eos_ids=stops, pad_id=pad
        )
        extractor = reader.Extractor(lister, sampling, settings.max_answers)
    return reader.Reader(extractor, part(settings.forecaster, "scalar", getattr(templates, settings.template)))


def frozen(config: ConfigDict) -> dict[str, Any]:
    """Precision of a model that is not trained: no master copy beyond the compute dtype."""
    return dict(config.precision, param_dtype=config.precision.compute_dtype)


def queries(questions: Sequence[Question], settings: ConfigDict, seed: int, first: int) -> Iterator[list[Question]]:
    """Endless rollout batches from number `first` on, shuffled each epoch, a question `num_samples` times in a row."""
    count = settings.rollout_batch_size // settings.num_samples
    order = batches.Order(np.zeros(len(questions), np.int64), count, seed)
    step = first
    while True:
        yield [questions[i] for i in order(step) for _ in range(settings.num_samples)]
        step += 1


class Trainer:
    """The models and settings of one run; `step` is PPO, the rest is what goes on around it.

    Raises:
      FileNotFoundError: a model or question file is not there, before anything is loaded.
    """

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
        self.config, self.ppo = config, config.ppo
        if config.ppo.baseline not in advantage.BASELINES:
            raise ValueError(f"ppo.baseline={config.ppo.baseline!r}: give one of {advantage.BASELINES}.")
        uses_critic = config.ppo.baseline.startswith("critic")
        if not uses_critic and config.ppo.num_samples < 2:
            raise ValueError(
                f"ppo.baseline={config.ppo.baseline!r} compares samples: set ppo.num_samples to 2 or more."
            )
        paths = [config.policy, config.reader.forecaster, config.reader.extractor, config.critic if uses_critic else ""]
        folders.check(*filter(None, paths))
        self.questions = load_questions(**config.questions)
        self.validation = load_questions(**config.validation)[: config.ppo.num_validation]
        check_disjoint((q.question_id for q in self.questions), (q.question_id for q in self.validation))
        self.writer = load_writer(config)
        self.reward = reward.RewardSettings(**config.reward)
        self.advantage = advantage.AdvantageSettings(**config.advantage)
        self.update = updates.UpdateSettings(
            self.ppo.num_epochs, self.ppo.minibatch_size, self.ppo.microbatch_size, self.ppo.temperature,
            LossSettings(**config.loss),
        )  # fmt: skip
        policy = hf.load(config.policy, mesh, **config.precision)
        critic = (
            hf.load(config.critic, mesh, kind="scalar", fresh_head=True, **config.precision) if uses_critic else None
        )
        self.reference = hf.load(config.policy, mesh, **frozen(config))
        self.reader = load_reader(config, mesh)
        learners = updates.Learners(policy, critic)
        self.tx = self._optimizer(learners)
        self.state = states.create(learners.params(), self.tx)
        self.learners = learners.with_params(None)  # the parameters are the state's from here on
        self.kl = kl.make(coefficient=self.ppo.kl_coef, **config.kl)

    def _optimizer(self, learners: updates.Learners) -> Optimizer:
        num_updates = self.ppo.num_epochs * (self.ppo.rollout_batch_size // self.ppo.minibatch_size)
        settings = OptimizerSettings.from_ratio(self.ppo.num_steps * num_updates, **self.config.optimizer)
        return make_optimizer(settings, trainable=trainable(learners.params()))

    def within_query_length(self) -> list[Question]:
        """Training questions whose prompts fit; longer ones are left out, with a count, and stay in evaluation."""
        fitting = [q for q in self.questions if len(self.writer.encode(q)) <= self.ppo.query_length]
        long = len(self.questions) - len(fitting)
        logging.info("%d training questions; %d prompts are over %d tokens", len(fitting), long, self.ppo.query_length)
        return fitting

    def step(self, questions: Sequence[Question], seed: int) -> tuple[dict[str, Any], tuple]:
        """One PPO step on `questions`. Returns its statistics, and what the rollout log wants to see."""
        phases = telemetry.Phases()
        models = self.learners.with_params(self.state.params)
        with phases.measure("generate"):
            completions = self.writer.write(models.policy, questions, seed)
            paragraphs = self.writer.decode(completions, self.ppo.clean_up)
        with phases.measure("read"):
            reading = self.reader.read(questions, paragraphs, seed)
            rewards = reward.compute(reading.forecasts, self.reward)
            scores = rewards.total
            if self.ppo.stop_penalty:
                scores = reward.penalize_unstopped(scores, np.asarray([c.finished for c in completions]))
        with phases.measure("look"):
            prompts_, width = [self.writer.encode(q) for q in questions], self._response_width()
            episodes = rollout.pack(prompts_, completions, width)
            critic_prompts = [self.writer.encode_for_critic(q) for q in questions]
            critic_episodes = (
                rollout.pack(critic_prompts, completions, width) if self.writer.critic_template else episodes
            )
            seen = rollout.look(
                models.policy, self.reference, models.critic, episodes, critic_episodes,
                temperature=self.ppo.temperature, microbatch_size=self.ppo.look_batch_size,
            )  # fmt: skip
            estimate = advantage.estimate(seen, scores, self.kl.coefficient, self.advantage, self._groups(reading))
        with phases.measure("update"):
            del models  # the update donates the parameters
            self._move_frozen("pinned_host")
            minibatch = updates.Minibatch(seen, estimate.advantages, estimate.returns)
            self.state, updated = updates.update(
                self.state, self.learners, minibatch, tx=self.tx, settings=self.update, seed=seed
            )
            self._move_frozen(None)
        self._check(updated, seen, completions)
        stats = telemetry.of_rollout(seen, [c.finished for c in completions])
        self.kl = self.kl.observe(stats["kl"])
        means = {name: float(np.mean([s[name] for s in updated])) for name in updated[0]}
        num_tokens = int(seen.episodes.spans[:, 1].sum())
        stats |= {"kl_coef": self.kl.coefficient, "advantage/explained_variance": float(estimate.explained_variance)}
        stats |= means | telemetry.of_reading(reading, rewards) | phases.report(num_tokens)
        return stats, (questions, paragraphs, reading, rewards)

    def _move_frozen(self, kind: str | None) -> None:
        """Moves the models that are not trained into the host's memory, or (None) back, where the config says so."""
        if self.ppo.frozen_on_host:
            self.reference = parallel.into_memory(self.reference, kind)
            self.reader = self.reader.with_models(lambda model: parallel.into_memory(model, kind))

    def _response_width(self) -> int | None:
        """The published statistics count padding up to the response length; ours need no padding beyond the longest."""
        masked = self.advantage.masked and self.update.loss.masked
        return None if masked else self.ppo.response_length

    def _groups(self, reading: reader.Reading) -> np.ndarray | None:
        """Which episodes the baseline compares: the samples of one question, or those that favour the same answer."""
        if self.learners.critic is not None:
            return None
        questions = np.arange(len(reading.answers)) // self.ppo.num_samples
        if self.ppo.baseline == "leave_one_out":
            return questions
        keys = list(zip(questions, reading.favourites(), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.asarray([numbers[key] for key in keys])

    def _check(
        self, updated: Sequence[dict], seen: rollout.Rollout, completions: Sequence[generate.Completion]
    ) -> None:
        """Stops a run whose numbers cannot be right."""
        gap, ratio = rollout.sampling_gap(seen, completions), updated[0]["policy/ratio_deviation"]
        if ratio > self.ppo.max_ratio_deviation or gap > self.ppo.max_sampling_gap:
            raise FloatingPointError(
                f"Before any update the policy disagrees with its own rollout (ratio off 1 by {ratio:.3g}, "
                f"log-probability while sampling off by {gap:.3g} nats); first response: {completions[0].tokens}. "
                "A bug in masks, positions or dtypes, or a coarse compute_dtype: then raise ppo.max_sampling_gap."
            )
        if updated[-1]["skipped_in_a_row"] >= MAX_SKIPPED:
            raise FloatingPointError(
                f"{MAX_SKIPPED} gradients in a row were not finite; the last checkpoint is from before."
            )

    def evaluate(self) -> dict[str, Any]:
        """Mean surrogate reward over the validation questions, without offset and KL; the same seed every time."""
        policy = self.learners.with_params(self.state.params).policy
        completions = self.writer.write(policy, self.validation, self.config.seed)
        validating = self.reader.drawing(top_k=0, top_p=self.config.reader.validation_top_p)
        reading = validating.read(self.validation, self.writer.decode(completions), self.config.seed)
        rewards = reward.compute(reading.forecasts, dataclasses.replace(self.reward, offset=0.0))
        stop_rate = float(np.mean([c.finished for c in completions]))
        return {f"eval_{k}": v for k, v in telemetry.of_reading(reading, rewards).items()} | {
            "eval_stop_rate": stop_rate
        }

    def save(self, folder: Path) -> None:
        """Writes the policy as a Hugging Face checkpoint."""
        policy = self.learners.with_params(self.state.params).policy
        hf.save(folder, policy, tokenizer=self.writer.tokenizer)

    def checkpoint(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"train": self.state, "kl_coef": jnp.float32(self.kl.coefficient)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from `checkpoint`."""
        self.state = saved["train"]
        self.kl = dataclasses.replace(self.kl, coefficient=float(saved["kl_coef"]))


def planned(config: ConfigDict, mesh: parallel.AnyMesh) -> plans.plan.Plan:
    """The memory plan; batch sizes of 0 in `config` are set to what fits."""
    ppo, read = config.ppo, config.reader

    def outline(name: str, kind: str = "causal", **precision: str) -> Model:
        return plans.plan.outline(name, mesh, kind, **precision)

    critic = outline(config.critic, "scalar", **config.precision) if ppo.baseline.startswith("critic") else None
    models = plans.Models(
        updates.Learners(outline(config.policy, **config.precision), critic),
        outline(config.policy, **frozen(config)),
        outline(read.extractor, **frozen(config)) if read.extractor else None,
        outline(read.forecaster, "scalar", **frozen(config)),
    )
    sizes = plans.Sizes(
        ppo.query_length,
        generate.Sampling(ppo.response_length, ppo.temperature),
        ppo.decode_batch_size,
        ppo.look_batch_size,
        updates.UpdateSettings(
            ppo.num_epochs, ppo.minibatch_size, ppo.microbatch_size, ppo.temperature, LossSettings(**config.loss)
        ),
        read.max_length,
        generate.Sampling(read.max_new_tokens, read.temperature) if read.extractor else None,
        read.batch_size,
        ppo.frozen_on_host,
    )
    settings = OptimizerSettings.from_ratio(1, **config.optimizer)
    sizes, plan = plans.ppo(models, sizes, make_optimizer(settings, trainable(models.learners.params())))
    ppo.update(decode_batch_size=sizes.decode_batch_size, microbatch_size=sizes.update.microbatch_size)
    return plan


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Trains `config.policy`, leaves it in `<output>/model` and every step's episodes in `<output>/rollouts.jsonl`."""
    output, ppo = Path(config.output), config.ppo
    planned(config, mesh).report()
    if config.dry_run:
        return
    trainer = Trainer(config, mesh)
    names = ("policy", "critic", "seed", "questions", "ppo", "kl", "reward", "reader", "loss", "advantage", "optimizer")
    destination = Destination.of(config.to_dict(), *names, "precision")
    with Checkpoints(destination, every=ppo.save_every, keep=ppo.keep) as checkpoints:
        saved, first = checkpoints.restore(trainer.checkpoint())
        trainer.restore(saved)
        log, rollouts = Run(destination, ppo.num_steps, first), telemetry.RolloutLog(output / "rollouts.jsonl", first)
        best, alarms = Candidates(output, ppo.num_candidates, ppo.first_candidate), telemetry.Alarms(**config.alarms)
        questions = queries(trainer.within_query_length(), ppo, config.seed, first)
        for step in range(first, ppo.num_steps):
            stats, episodes = trainer.step(next(questions), seed=config.seed * 1_000_003 + step)
            if (step + 1) % ppo.eval_every == 0 or step + 1 == ppo.num_steps:
                stats |= trainer.evaluate()
                best.offer(Candidate(step + 1, stats["eval_reward"]), trainer.save)
            rollouts.write(step, *episodes)
            log.log(step, stats)
            log.advance()
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
