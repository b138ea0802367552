"""Amount of work of a stage: rows of the published sets, and mean tokens of their texts."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from lc_jax.data.rows import MINIATURE, is_local, load_rows, optional
from lc_jax.evaluation.published import PROMPTS
from lc_jax.planning.stages import Stage
from lc_jax.prompts import strategies

# Rows of the published sets (paper, appendix), and of the miniature's.
ROWS = {
    "sft": 10_000, "reward_model": 20_000, "TriviaQA": 11_313, "Jeopardy": 10_638, "SciQ": 13_679, "BioASQ": 1_515,
    "biographies": 500, "TriviaQA validation": 1_000,
}  # fmt: skip
MINIATURE_ROWS = 800
_QUERY = "Write a paragraph about the answer to a question. " * 4  # a long query
_CHARACTERS = 3.5  # characters of a token, a low estimate
# Tokens, from the published data.
SEQUENCE = {"sft": 250, "reward_model": 350}  # one training sequence
PARAGRAPH = 200
READER_PROMPT, ANSWER = 350, 32  # paragraph and question with the reader's instruction; answers with their question


def is_miniature(stage: Stage) -> bool:
    """Returns whether the stage's config is that of the miniature world."""
    return stage.experiment.endswith(":mini")


def selected_run(stage: Stage, stages: Sequence[Stage]) -> ConfigDict | None:
    """Returns the config of the PPO run from which the stage selects a candidate; None for other stages."""
    runs = [other.config for other in stages if other.config.task == "ppo" and stage.is_selection]
    return next((run for run in runs if stage.result.startswith(f"{run.output}/")), None)


def num_candidates(stage: Stage, stages: Sequence[Stage]) -> int:
    """Returns the number of checkpoints that a stage evaluates: all candidates for a selection, else 1."""
    run = selected_run(stage, stages)
    return run.ppo.num_candidates if run else 1


def num_rows(stage: Stage, stages: Sequence[Stage] = ()) -> int:
    """Returns the number of questions, rows or entities of a stage.

    Args:
      stages: of the script, whose results a stage may read before they are there.
    """
    config = stage.config
    limit = config.get("limit") or 10**9
    if is_miniature(stage):
        return min(limit, MINIATURE_ROWS)
    if (own := _own_rows(config, stages)) is not None:
        return min(limit, own)
    if config.task in ("sft", "reward_model"):
        return ROWS["reward_model" if "reward_model" in config.data.rows.source else "sft"]
    data = config.get("data", "")
    if config.task == "generate_data" and config.questions.split == "test":
        data = next((data for data, name in PROMPTS.items() if f":{name}_" in config.questions.source), "")
    return min(limit, ROWS.get(data, ROWS["TriviaQA"]))


def _own_rows(config: ConfigDict, stages: Sequence[Stage]) -> int | None:
    """Returns the number of rows in the user's own files that a stage reads; None for published data."""
    part = config.data.rows if config.task in ("sft", "reward_model") else config.get("questions", {})
    source, split = part.get("source"), optional(part.get("split"))
    if not source or str(source).startswith(MINIATURE):
        return None
    if not is_local(source):
        maker = next((other for other in stages if other.result == source), None)
        return None if maker is None else num_rows(maker, stages)
    try:
        return len(load_rows(source, split))
    except (OSError, ValueError):  # the stage's own check says what is wrong
        return None


def prompt_tokens(config: ConfigDict) -> int:
    """Estimates the tokens of a prompt with the examples of its strategy."""
    in_context = config.get("in_context")
    strategy = strategies.of_base_model(config.prompt_dir) if in_context else config.get("strategy", "finetuned")
    prompt = strategies.load(strategy, config.templates, config.prompt_dir, checkpoint=True)
    text = prompt.prompt_text(paragraph_generation_prompt=_QUERY)
    full_text = text if isinstance(text, str) else "".join(message.content for message in text)
    return round(len(full_text) / _CHARACTERS)
