"""What a training's settings, folders and files tell before anything is loaded or compiled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lc_jax.data import examples
from lc_jax.data.questions import load_training_rows
from lc_jax.data.rows import optional
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models import folders, registry
from lc_jax.models.transformer import Config
from lc_jax.prompts import Templates
from lc_jax.training.loop import FitSettings


def check_precision(**precision: str) -> None:
    """Refuses a dtype, remat or kernel that no model takes.

    Raises:
      ValueError: names the flag.
    """
    registry.from_preset("tiny-llama", **precision)


def check_model(name: str, path: str, kind: str = "causal", *, dry_run: bool = False) -> Config | None:
    """The config of the checkpoint that the setting `name` names; None of a hub name, which is not looked up yet.

    Args:
      dry_run: a preset's name, such as llama-2-7b, is enough for the memory plan.

    Raises:
      FileNotFoundError: the folder, its config.json or its weights are missing.
      ValueError: its family is not implemented, or a language model is needed and it is a reward model.
    """
    if dry_run and registry.is_preset(path):
        return registry.from_preset(path)
    try:
        folders.check(path)
        if not Path(path).is_dir():
            return None
        config, stored_kind = folders.config_of(path)
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


def check_examples(
    recipe: str, rows: Mapping[str, Any], templates: Templates, eval_size: int, fit: FitSettings, *, labels: bool
) -> None:
    """Refuses rows of which too few make an example, or examples of another kind of model.

    Args:
      rows: arguments of load_training_rows.
      labels: whether the model learns labels (a reward model) or texts.

    Raises:
      ValueError: names the file or flag, and why rows were dropped.
    """
    if optional(rows["source"]) is None:
        raise ValueError("--config.data.rows.source is empty: give a file, a folder or a hub data set.")
    found, _ = examples.load_examples(recipe, rows["source"], load_training_rows(**rows), templates)
    if math.isnan(found[0].label) == labels:
        task = "sft" if labels else "reward_model"
        raise ValueError(f"--config.data.recipe={recipe} makes examples for the task {task}.")
    split = examples.split_by_question(found, eval_size, fit.seed)
    fit.num_steps(len(split.train))
