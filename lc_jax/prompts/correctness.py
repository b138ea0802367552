"""Does a paragraph lead its reader to the true answer? The label of the factuality reward model (paper section 5)."""

from __future__ import annotations

from collections.abc import Mapping

from lc_jax.prompts.literals import unfence
from lc_jax.prompts.prompt import Invalid, Prompt


def _parse(reply: str, fields: Mapping[str, str]) -> int:
    """0 or 1."""
    text = unfence(reply).split("\n\n")[0].strip().removesuffix(".")
    if text not in ("0", "1"):
        raise Invalid(f"neither 0 nor 1: {text[:60]!r}")
    return int(text)


PROMPT = Prompt(
    """\
Somebody answers the question with what the paragraph states, and with nothing else. Is the reply they would give the \
true answer, in this or other words?

- Write 1 if it is.
- Write 0 if the paragraph leads to another answer or to none.

Paragraph: {generated_paragraph}

Question: {question}

True answer: {answer}

Reply with 0 or 1 and nothing else.

Verdict:""",
    _parse,
)
