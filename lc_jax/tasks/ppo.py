"""PPO on a reward from a reader's forecasts: LC RL (decision-based) and Factuality RL (paper section 4.3)."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lc_jax import memory, parallel
from lc_jax.data.questions import load_train_and_validation
from lc_jax.data.tokenizer import load_templates_for
from lc_jax.models import folders, hf
from lc_jax.models.config import training_fields
from lc_jax.models.transformer import Model, trainable
from lc_jax.rl import advantage, checks, kl, reader, reward, telemetry, verify, writer
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.settings import PPOSettings, queries
from lc_jax.rl.step import Trainer, step, validate
from lc_jax.training import advice
from lc_jax.training import state as states
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.exports import Candidate, Candidates, Exports
from lc_jax.training.logging import Run, RunDirectory, announce
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

SAMPLES = 8  # validation paragraphs that are shown in W&B
# Settings that must stay the same when a run is resumed.
DESCRIBED = (
    "policy", "critic", "seed", "questions", "ppo", "kl", "reward", "reader", "loss", "advantage", "optimizer",
    "precision",
)  # fmt: skip


def check(config: ConfigDict) -> None:
    """Refuses settings, folders and files that PPO cannot be run from, all of them at once."""
    checks.check(config.to_dict())


def planned(config: ConfigDict, mesh: parallel.AnyMesh) -> memory.Plan:
    """Returns the memory plan, with the batch sizes that fit where the config leaves them open (0)."""
    return memory.plan_ppo(config.to_dict(), mesh)


def build(config: ConfigDict, mesh: jax.sharding.Mesh, ppo: PPOSettings) -> tuple[Trainer, states.TrainState]:
    """Loads the models of one run, and returns them with its settings and a fresh training state.

    Raises:
      FileNotFoundError: a model is missing, before anything is loaded.
    """
    critics = [config.critic] if ppo.uses_critic else []
    folders.check(*filter(None, [config.policy, config.reader.forecaster, config.reader.extractor, *critics]))
    templates = load_templates_for(config.policy, config.templates, config.prompt_dir)
    texts, frozen = writer.load(config.policy, templates, ppo), reader.frozen(config.precision)
    trained = training_fields(config.to_dict())
    policy = hf.load(config.policy, mesh, **trained)
    settings: dict[str, Any] = {"kind": "scalar", "fresh_head": True, "backbone": policy}
    critic = hf.load(config.critic, mesh, **settings, **trained) if critics else None
    actor_critic = ActorCritic(policy, critic)
    if policy.frozen is None:
        reference = hf.load(config.policy, mesh, **frozen)
    else:  # the frozen backbone with a copy of the adapter, which the updates overwrite
        reference = policy.with_params(jax.tree.map(jnp.copy, policy.params))
    optimizer = OptimizerSettings.from_ratio(ppo.num_steps * ppo.updates_per_step, **config.optimizer)
    tx = make_optimizer(optimizer, trainable=trainable(actor_critic.params()))
    trainer = Trainer(
        writer=texts,
        reader=reader.load(config.reader.to_dict(), templates, mesh, {**frozen, "backbone": policy}),
        reference=reference,
        structure=actor_critic.with_params(None),  # the parameters are the state's from here on
        optimizer=optimizer,
        tx=tx,
        ppo=ppo,
        reward=reward.RewardSettings(**config.reward),
        advantage=advantage.AdvantageSettings(**config.advantage),
        loss=LossSettings(**config.loss),
        seed=config.seed,
    )
    return trainer.with_frozen_in("pinned_host"), states.create(actor_critic.params(), tx)


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Trains `config.policy`, leaves it in `<output>/model`, and what was written and read at every step in `<output>`.

    That is `rollouts.jsonl`, the episodes of training, and `validation.jsonl`, the validation paragraphs of every
    evaluation with the answers that they offer and the reader's probabilities.
    """
    plan = planned(config, mesh)
    plan.report()
    if config.dry_run:
        return
    sizes = {"microbatch_size": plan.microbatch_size, "decode_batch_size": plan.decode_batch_size}
    ppo, output = PPOSettings(**config.ppo.to_dict() | sizes), Path(config.output)
    settings = config.to_dict()  # as `check` has them, so that the file is not read again
    train, validation = load_train_and_validation(
        settings["questions"], settings["validation"], ppo.num_validation, config.seed
    )
    trainer, state = build(config, mesh, ppo)
    train = trainer.writer.fitting(train, ppo.query_length)
    ppo.check_questions(len(train))
    controller = kl.make(coefficient=ppo.kl_coef, **config.kl)
    alarms = telemetry.Alarms(**config.alarms)
    if not trainer.reader.lists_answers:  # it finds no answers, which is no cause for an alarm
        alarms = dataclasses.replace(alarms, max_no_answer_rate=1.0)

    def save(folder: Path, policy: Model | None = None) -> None:
        model = policy or trainer.policy(state)
        hf.save(folder, model, tokenizer=trainer.writer.tokenizer, dtype=config.export_dtype or None)

    run_directory = RunDirectory.of(config.to_dict(), *DESCRIBED, *(["lora"] if config.lora.rank else []))
    with Checkpoints(run_directory, every=ppo.save_every, keep=ppo.keep) as checkpoints:

        def checkpoint() -> dict[str, Any]:
            return {"train": state, "kl_coef": jnp.float32(controller.coefficient)}

        restored, first = checkpoints.restore(checkpoint(), ppo.num_steps)
        state = restored.pop("train")
        controller = dataclasses.replace(controller, coefficient=float(restored["kl_coef"]))
        log = Run(run_directory, ppo.num_steps, first)
        rollouts, validations = (telemetry.RolloutLog(output / f"{n}.jsonl", first) for n in ("rollouts", "validation"))
        exports = Exports(output, config.export_every, save)
        candidates = Candidates(output, ppo.num_candidates, ppo.first_candidate)
        trainer.describe(state, first)
        verify.require(verify.arithmetic(trainer.advantage, trainer.reward))
        batches = queries(train, ppo, config.seed, first)
        for number in range(first, ppo.num_steps):
            done = step(trainer, state, controller, next(batches), number)
            state, controller, stats = done.state, done.controller, done.stats
            if ppo.evaluates_after(number + 1):
                evaluation, rows = validate(trainer, state, validation, config.reader.validation_top_p)
                stats |= evaluation
                validations.write(number, rows)
                candidates.offer(Candidate(number + 1, stats["eval_reward"]), save)
                log.log_samples(number, rows[:SAMPLES])
            rollouts.write(number, done.rows)
            log.log(number, stats)
            log.advance()
            exports.after(number + 1, functools.partial(trainer.policy, state))
            checkpoints.save(number + 1, checkpoint(), force=number + 1 == ppo.num_steps)
            alarms.check(number, stats, output)
    log.close()
    save(output / "model")
    announce(output / "model", advice.to_evaluate(config.to_dict()))
