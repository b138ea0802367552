"""Which answers to a question does a paragraph offer? (paper section 4.2, the first half of a reader's forecast)"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from lc_jax.prompts.answer_list import distinct
from lc_jax.prompts.literals import leading_list
from lc_jax.prompts.objects import after_reasoning, labelled, schema, stated
from lc_jax.prompts.prompt import Invalid, Prompt, read_template


def _parse(reply: str, fields: Mapping[str, str]) -> list[str]:
    """Distinct answers in order; [] where the paragraph offers none. One line of text, or a list in JSON."""
    value = stated(reply)
    if isinstance(value, str):
        value = labelled(value, "answers?")
        if value.startswith("["):
            try:
                value = leading_list(value)
            except ValueError as error:
                raise Invalid(str(error)) from error
    if isinstance(value, list):
        if not all(isinstance(item, (str, int, float)) for item in value):
            raise Invalid(f"not every answer in {str(value)[:60]} is text")
        return distinct([str(item) for item in value])
    if not isinstance(value, str):
        raise Invalid(f"not a list of answers: {str(value)[:60]}")
    lines = value.split("\n\n")[0].strip().splitlines()
    if len(lines) != 1:
        raise Invalid(f"one line of answers was asked for, the reply has {len(lines)}")
    return distinct(lines[0].split(";"))


@functools.cache
def prompt(reasoning: bool = False, text_order: bool = False) -> Prompt:
    """The question, which replies answer on one line.

    Args:
      reasoning: whether a line of reasoning comes before the answers.
      text_order: whether answers stand in the order of the paragraph; otherwise the most probable comes first.
    """
    template = read_template("extract_reasoning" if reasoning else "extract")
    if text_order:
        template = template.replace("the most probable first", "in the order in which the paragraph names them")
    parser = after_reasoning(_parse, "answers?") if reasoning else _parse
    answers = {"type": "array", "items": {"type": "string"}}
    return Prompt(template, parser, schema("answers", answers, reasoning=reasoning))


PROMPT = prompt()
