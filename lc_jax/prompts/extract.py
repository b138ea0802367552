"""Which answers to a question does a paragraph offer? (paper section 4.2, the first half of a reader's forecast)"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lc_jax.prompts.literals import leading_list, unfence
from lc_jax.prompts.models import distinct
from lc_jax.prompts.prompt import Invalid, Prompt

_LABEL = re.compile(r"\A(possible )?answers?[ \t]*:\s*", re.IGNORECASE)


def _parse(reply: str, fields: Mapping[str, str]) -> list[str]:
    """Distinct answers in order; [] where the paragraph offers none. A JSON list is accepted too."""
    text = _LABEL.sub("", unfence(reply))
    if text.startswith("["):
        try:
            items = leading_list(text)
        except ValueError as error:
            raise Invalid(str(error)) from error
        if not all(isinstance(item, (str, int, float)) for item in items):
            raise Invalid(f"an answer in {items!r} is not text")
        return distinct([str(item) for item in items])
    lines = text.split("\n\n")[0].strip().splitlines()
    if len(lines) != 1:
        raise Invalid(f"one line of answers was asked for, the reply has {len(lines)}")
    return distinct(lines[0].split(";"))


PROMPT = Prompt(
    """\
Read the paragraph and list every answer to the question that it offers as possible, however unlikely it calls it.

- Take answers from the paragraph alone, even where you know better.
- Give each answer in the shortest form that is clear by itself, once.
- An answer that the paragraph rules out is not offered.
- Write the answers on one line, the most probable first, with "; " between them.
- If the paragraph offers no answer to the question, write: No Answer

Example. Paragraph: "The bridge was finished in 1932, though I would give one chance in five to 1934." \
Question: "When was the bridge finished?" Answers: 1932; 1934

Paragraph: {generated_paragraph}

Question: {question}

Answers:""",
    _parse,
)
