"""The command to run next with a trained model, as its task prints it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lc_jax.data.rows import MINIATURE, optional
from lc_jax.provenance import command_line

PUBLISHED = "_paragraph_generation"  # in the names of the published sets of prompts
_FILE = "{} stands for your own file, whose rows have {}"


@dataclasses.dataclass(frozen=True)
class Advice:
    """The next command, and a note on what to replace in it."""

    command: str
    note: str


def to_write(settings: Mapping[str, Any], *, uses_template: bool, has_chat_template: bool = True) -> Advice:
    """Returns the command that generates with a trained language model.

    Args:
      settings: all settings of the training run.
      uses_template: whether the model was trained with queries in the paragraph template, rather than bare prompts.
      has_chat_template: whether the tokenizer saved with the model takes `messages`.
    """
    output = Path(settings["output"])
    values = {"model": output / "model", "prompts": "prompts.jsonl", "output": output / "completions.jsonl"}
    values |= _precision(settings)
    columns = "`prompt` or `messages`" if has_chat_template else "`prompt`"
    if uses_template:
        columns = "`paragraph_generation_prompt`"
        values |= _template(settings, default="full")
    return Advice(command_line("configs/generate.py", values), _FILE.format("prompts.jsonl", columns))


def to_score(settings: Mapping[str, Any]) -> Advice:
    """Returns the command that scores texts with a trained reward model."""
    output = Path(settings["output"])
    values = {"model": output / "model", "input": "rows.jsonl", "output": output / "scored.jsonl", "kind": "reward"}
    values |= _precision(settings)
    columns = "`prompt` and `completion`, or `text`"
    return Advice(command_line("configs/score.py", values), _FILE.format("rows.jsonl", columns))


def to_evaluate(settings: Mapping[str, Any]) -> Advice:
    """Returns the command that evaluates a policy: in the miniature, on published or on own questions."""
    output, questions = Path(settings["output"]), settings["validation"]
    values = {"model": output / "model", "method": "ppo", "output": output / "evaluation"}
    own = str(settings["questions"]["source"])
    source = str(optional(questions["source"]) or own)
    if source == MINIATURE:
        values |= _template(settings, default="short")
        return Advice(command_line("configs/evaluate_qa.py:mini", values), "the annotator is simulated")
    values |= {"annotator.name": "PROVIDER/MODEL"} | _template(settings, default="full")
    note = "PROVIDER/MODEL is the annotator that reads and judges, such as anthropic/claude-haiku-4-5"
    if PUBLISHED in source:
        return Advice(command_line("configs/evaluate_qa.py", values), note)
    names = ("columns",) if Path(source).is_file() else ("split", "columns")
    values |= {"questions.source": source}
    values |= {f"questions.{name}": questions[name] for name in names if optional(questions[name]) is not None}
    if source == own:
        note += "; the policy was trained on questions of this file: evaluate on others"
    return Advice(command_line("configs/evaluate_qa.py:own", values), note)


def _precision(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns the dtypes of the training that differ from the defaults of configs without a mode."""
    defaults = {"param_dtype": "float32", "compute_dtype": "bfloat16"}
    dtypes = {name: settings["precision"][name] for name in defaults}
    return {f"precision.{name}": dtype for name, dtype in dtypes.items() if dtype != defaults[name]}


def _template(settings: Mapping[str, Any], default: str) -> dict[str, str]:
    """Returns the settings of prompts that differ from the defaults of the command's config."""
    templates, folder = settings["templates"], settings["prompt_dir"]
    return ({"templates": templates} if templates != default else {}) | ({"prompt_dir": folder} if folder else {})
