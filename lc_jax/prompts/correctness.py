"""Does a paragraph lead its reader to the true answer? The label of the factuality reward model (paper section 5)."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from lc_jax.prompts.objects import labelled, labelled_prompt, stated
from lc_jax.prompts.prompt import Invalid, Prompt, Shot

_VERDICTS = {"1": 1, "yes": 1, "true": 1, "correct": 1, "0": 0, "no": 0, "false": 0, "incorrect": 0}


def _parse(reply: str, fields: Mapping[str, str]) -> int:
    """0 or 1."""
    value = stated(reply)
    text = labelled(str(value), "verdict").split("\n\n")[0].strip().removesuffix(".").casefold()
    if text not in _VERDICTS:
        raise Invalid(f"neither 0 nor 1: {text[:60]!r}")
    return _VERDICTS[text]


_STAR = "Its brightest star is Antares, a red supergiant. The constellation was known to the Babylonians."
SHOTS: tuple[Shot, ...] = (
    Shot(
        {
            "generated_paragraph": _STAR,
            "question": "Which is the brightest star of Scorpius?",
            "answer": "Antares (Alpha Scorpii)",
        },
        "1",
    ),
    Shot({"generated_paragraph": _STAR, "question": "Which people named Scorpius?", "answer": "The Sumerians"}, "0"),
    Shot({"generated_paragraph": _STAR, "question": "In which month is Scorpius highest?", "answer": "July"}, "0"),
)

_REASONS = (
    "The paragraph calls Antares the brightest star.",
    "The paragraph names the Babylonians, and not as those who named the constellation.",
    "The paragraph says nothing of a month.",
)


@functools.cache
def prompt(reasoning: bool = False) -> Prompt:
    """The question, which replies answer with 0 or 1.

    Args:
      reasoning: whether a line of reasoning comes before it.
    """
    reply = "Reply with 0 or 1 and nothing else."
    if reasoning:
        reply = """\
Reply with two lines: "Reasoning:" and what the paragraph says on the question, then "Verdict:" and 0 or 1."""
    rules = f"""\
Somebody answers the question with what the paragraph states, and with nothing else. Is the reply they would give the \
true answer, in this or other words?

- Write 1 if it is.
- Write 0 if the paragraph leads to another answer or to none.
- {reply}"""
    form = "Paragraph: {generated_paragraph}\n\nQuestion: {question}\n\nTrue answer: {answer}"
    verdict, reasons = {"type": "integer", "enum": [0, 1]}, _REASONS if reasoning else None
    return labelled_prompt(rules, form, SHOTS, _parse, verdict, label="Verdict", reasons=reasons)


PROMPT = prompt()
