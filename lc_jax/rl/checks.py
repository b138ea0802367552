"""Checks of PPO's settings, folders and files before anything is loaded or compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lc_jax.data.questions import load_train_and_validation
from lc_jax.models.config import Lora
from lc_jax.preflight import check_all
from lc_jax.prompts import load_templates
from lc_jax.rl import advantage, kl, objective, reader, reward, telemetry
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.settings import PPOSettings
from lc_jax.training import checks


def check(settings: Mapping[str, Any]) -> None:
    """Refuses settings, folders and files that PPO cannot be run from, all of them at once.

    Raises:
      Problems: a line for each.
    """
    ppo, readers, is_dry_run = settings["ppo"], settings["reader"], settings["dry_run"]
    uses_critic, has_models = str(ppo["baseline"]).startswith("critic"), readers["kind"] == "models"

    def model(name: str, path: str, kind: str = "causal", *, is_trained: bool = False) -> None:
        lora = Lora.of(settings["lora"]) if is_trained else None
        checks.check_model(name, path, kind, dry_run=is_dry_run, lora=lora)

    def questions() -> None:
        train, _ = load_train_and_validation(
            settings["questions"], settings["validation"], ppo["num_validation"], settings["seed"]
        )
        PPOSettings(**ppo).check_questions(len(train))

    def templates() -> None:
        names = [f.name for f in dataclasses.fields(load_templates(settings["templates"], settings["prompt_dir"]))]
        if readers["template"] not in names:
            raise ValueError(f"--config.reader.template={readers['template']}: give one of {', '.join(names)}.")

    def rewards() -> None:
        name = reward.RewardSettings(**settings["reward"]).name
        if name in reward.OF_STATED_CONFIDENCE and has_models and not readers["extractor"]:
            raise ValueError(
                f"--config.reward.name={name} scores the confidence in an extracted answer, and "
                "--config.reader.extractor is empty: give a checkpoint that extracts answers."
            )
        if ppo["baseline"] == "same_answer" and has_models and not readers["extractor"]:
            raise ValueError(
                "--config.ppo.baseline=same_answer compares samples by their extracted answers, and "
                "--config.reader.extractor is empty: give a checkpoint that extracts answers, or another baseline."
            )

    def combination() -> None:
        objective.check(
            PPOSettings(**ppo),
            reward.RewardSettings(**settings["reward"]),
            advantage.AdvantageSettings(**settings["advantage"]),
            LossSettings(**settings["loss"]),
        )

    check_all(
        lambda: PPOSettings(**ppo),
        *checks.run_checks(settings),
        rewards,
        lambda: advantage.AdvantageSettings(**settings["advantage"]).check(ppo["rollout_batch_size"]),
        lambda: LossSettings(**settings["loss"]),
        combination,  # repeats what those before it raise, which is said once
        lambda: kl.KLSettings(**settings["kl"]),
        lambda: telemetry.Alarms(**settings["alarms"]),
        lambda: reader.check(readers),
        templates,
        lambda: model("policy", settings["policy"], is_trained=True),
        lambda: model("critic", settings["critic"], "scalar", is_trained=True) if uses_critic else None,
        lambda: model("reader.forecaster", readers["forecaster"], "scalar") if has_models else None,
        lambda: model("reader.extractor", readers["extractor"]) if has_models and readers["extractor"] else None,
        lambda: checks.check_same_tokens(settings["policy"], settings["critic"]) if uses_critic else None,
        *([] if is_dry_run else [questions]),
    )
