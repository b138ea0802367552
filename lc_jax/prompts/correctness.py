"""Does a paragraph lead its reader to the true answer? The label of the factuality reward model (paper section 5)."""

from __future__ import annotations

from collections.abc import Mapping

from lc_jax.prompts.objects import labelled, schema, stated
from lc_jax.prompts.prompt import Invalid, Shot, few_shot

_VERDICTS = {"1": 1, "yes": 1, "true": 1, "correct": 1, "0": 0, "no": 0, "false": 0, "incorrect": 0}


def _parse(reply: str, fields: Mapping[str, str]) -> int:
    """0 or 1."""
    value = stated(reply)
    text = labelled(str(value), "verdict").split("\n\n")[0].strip().removesuffix(".").casefold()
    if text not in _VERDICTS:
        raise Invalid(f"neither 0 nor 1: {text[:60]!r}")
    return _VERDICTS[text]


_STAR = "Its brightest star is Antares, a red supergiant. The constellation was known to the Babylonians."
SHOTS = (
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

PROMPT = few_shot(
    """\
Somebody answers the question with what the paragraph states, and with nothing else. Is the reply they would give the \
true answer, in this or other words?

- Write 1 if it is.
- Write 0 if the paragraph leads to another answer or to none.
- Reply with 0 or 1 and nothing else.""",
    "Paragraph: {generated_paragraph}\n\nQuestion: {question}\n\nTrue answer: {answer}\n\nVerdict:",
    SHOTS,
    _parse,
    schema("verdict", {"type": "integer", "enum": [0, 1]}),
)
