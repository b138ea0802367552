"""The label of the factuality reward model: whether a paragraph leads its reader to the true answer (section 5)."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from lc_jax.prompts.parsing import after_reasoning, verdict
from lc_jax.prompts.prompt import Prompt, read_template, schema

_VERDICTS = {"1": 1, "yes": 1, "true": 1, "correct": 1, "0": 0, "no": 0, "false": 0, "incorrect": 0}


def _parse(reply: str, fields: Mapping[str, str]) -> int:
    """Returns 0 or 1."""
    return verdict(reply, _VERDICTS, "verdict", "neither 0 nor 1")


@functools.cache
def prompt(reasoning: bool = False) -> Prompt:
    """Returns the question, which replies answer with 0 or 1.

    Args:
      reasoning: whether a line of reasoning comes before it.
    """
    name = "correctness_reasoning" if reasoning else "correctness"
    parser = after_reasoning(_parse, "verdicts?") if reasoning else _parse
    value = {"type": "integer", "enum": [0, 1]}
    return Prompt(read_template(name), parser, schema("verdict", value, reasoning=reasoning))


PROMPT = prompt()
