"""Does a paragraph lead its reader to the true answer? The label of the factuality reward model (paper section 5)."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from lc_jax.prompts.objects import after_reasoning, labelled, schema, stated
from lc_jax.prompts.prompt import Invalid, Prompt, read_template

_VERDICTS = {"1": 1, "yes": 1, "true": 1, "correct": 1, "0": 0, "no": 0, "false": 0, "incorrect": 0}


def _parse(reply: str, fields: Mapping[str, str]) -> int:
    """0 or 1."""
    value = stated(reply)
    text = labelled(str(value), "verdict").split("\n\n")[0].strip().removesuffix(".").casefold()
    if text not in _VERDICTS:
        raise Invalid(f"neither 0 nor 1: {text[:60]!r}")
    return _VERDICTS[text]


@functools.cache
def prompt(reasoning: bool = False) -> Prompt:
    """The question, which replies answer with 0 or 1.

    Args:
      reasoning: whether a line of reasoning comes before it.
    """
    name = "correctness_reasoning" if reasoning else "correctness"
    parser = after_reasoning(_parse, "verdicts?") if reasoning else _parse
    verdict = {"type": "integer", "enum": [0, 1]}
    return Prompt(read_template(name), parser, schema("verdict", verdict, reasoning=reasoning))


PROMPT = prompt()
