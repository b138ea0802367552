"""Checks a training's settings, folders and files before anything is loaded or compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lc_jax.data import examples
from lc_jax.data.questions import load_training_rows
from lc_jax.data.rows import optional
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models import folders, registry
from lc_jax.models.config import DTYPES, Config, Lora
from lc_jax.models.source import Source
from lc_jax.preflight import NATURAL, POSITIVE_INT, check_all, check_output, check_settings
from lc_jax.prompts import Templates, load_templates
from lc_jax.training import tracking
from lc_jax.training.loop import FitSettings
from lc_jax.training.optimizer import OptimizerSettings


def check_precision(**precision: str) -> None:
    """Refuses a dtype, remat or kernel that no model takes.

    Raises:
      ValueError: names the flag.
    """
    registry.from_preset("tiny-llama", **precision)


def check_model(
    name: str, path: str, kind: str = "causal", *, dry_run: bool = False, lora: Lora | None = None
) -> Config | None:
    """The config of the checkpoint that the setting `name` names; None of a hub name, which is not looked up yet.

    Args:
      lora: adapters with which it will be trained.
      dry_run: a preset's name, such as llama-2-7b, is enough for the memory plan.

    Raises:
      FileNotFoundError: the folder, its config.json or its weights are missing.
      ValueError: its family is not implemented, or a language model is needed and it is a reward model.
    """
    if optional(path) is None:
        raise FileNotFoundError(f"No checkpoint given: give --config.{name}=FOLDER.")
    if dry_run and registry.is_preset(path):
        return registry.from_preset(path)
    try:
        folders.check(path)
        if not Path(path).is_dir():
            return None
        source = Source.at(path)
        config, stored_kind = source.config(lora=lora)
        source.lora(config)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--config.{name}: {error}") from error
    if kind == "causal" and stored_kind == "scalar":
        raise ValueError(f"--config.{name}={path} is a reward model; give a language model.")
    return config


def check_same_tokens(policy: str, critic: str) -> None:
    """Refuses a critic whose tokenizer differs from the policy's, for it reads the policy's tokens.

    Raises:
      ValueError: two local folders have tokenizers with other vocabularies.
    """
    if not all(folders.has_tokenizer(path) for path in (policy, critic)):
        return
    one, other = (load_tokenizer(path) for path in (policy, critic))
    vocabularies = [t.hf.get_vocab() for t in (one, other) if t.hf is not None]
    if any(vocabulary != vocabularies[0] for vocabulary in vocabularies):
        raise ValueError(
            f"--config.critic={critic} has another tokenizer than --config.policy={policy}, whose tokens it reads: "
            "give a critic of the same family, or --config.ppo.baseline=leave_one_out."
        )


def check_export(dtype: str) -> None:
    """Refuses a dtype that no checkpoint is written in.

    Raises:
      ValueError: names the flag.
    """
    if dtype and dtype not in DTYPES:
        raise ValueError(f"--config.export_dtype={dtype}: give one of {', '.join(DTYPES)}, or leave it empty.")


def run_checks(settings: Mapping[str, Any]) -> list[Callable[[], object]]:
    """The checks that every trainer makes: optimiser, precision, W&B and output of its `settings`."""
    return [
        lambda: OptimizerSettings.from_ratio(1, **settings["optimizer"]),
        lambda: check_precision(**settings["precision"]),
        lambda: check_export(settings["export_dtype"]),
        lambda: check_settings("", settings, export_every=NATURAL),
        lambda: tracking.check(settings["wandb"]),
        lambda: check_output(settings["output"]),
    ]


def check_training(settings: Mapping[str, Any], *, labels: bool) -> None:
    """Refuses settings, folders and files that nothing can be trained from, all of them at once.

    Args:
      settings: of a task that trains one model on rows.
      labels: whether the model learns labels (a reward model) or texts.

    Raises:
      Problems: a line for each.
    """
    data, is_dry_run = settings["data"], settings["dry_run"]

    def sizes() -> None:
        check_settings("data", data, max_length=POSITIVE_INT, eval_size=NATURAL)

    def fit() -> FitSettings:
        return FitSettings(**settings["fit"], seed=settings["seed"])

    def templates() -> Templates:
        return load_templates(settings["templates"], settings["prompt_dir"])

    def rows() -> None:
        if optional(data["rows"]["source"]) is None:
            raise ValueError("--config.data.rows.source is empty: give a file, a folder or a hub data set.")
        load_training_rows(**data["rows"])

    def num_steps() -> None:
        rows()
        dataset, _ = examples.load_examples(data, templates())
        if math.isnan(dataset[0].label) == labels:
            task = "sft" if labels else "reward_model"
            raise ValueError(f"--config.data.recipe={data['recipe']} makes examples for the task {task}.")
        sizes()
        fit().num_steps(len(examples.split_by_question(dataset, data["eval_size"], settings["seed"]).train))

    check_all(
        fit,
        *run_checks(settings),
        sizes,
        lambda: check_model("model", settings["model"], dry_run=is_dry_run, lora=Lora.of(settings["lora"])),
        templates,
        *(() if is_dry_run else (rows, num_steps)),  # the latter repeats what the others raise, which is said once
    )
