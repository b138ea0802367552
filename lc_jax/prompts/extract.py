"""The answers to a question that a paragraph offers (paper section 4.2, the first half of a reader's forecast)."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from lc_jax.prompts.parsing import Invalid, after_label, after_reasoning, distinct_answers, final_value, leading_list
from lc_jax.prompts.prompt import Prompt, read_template, schema


def _parse(reply: str, fields: Mapping[str, str]) -> list[str]:
    """Returns distinct answers in order; [] where the paragraph offers none. One line of text, or a list in JSON."""
    value = final_value(reply)
    if isinstance(value, str):
        value = after_label(value, "answers?")
        if value.startswith("["):
            value = leading_list(value)
    if isinstance(value, list):
        if not all(isinstance(item, (str, int, float)) for item in value):
            raise Invalid(f"not every answer in {str(value)[:60]} is text")
        return distinct_answers([str(item) for item in value])
    if not isinstance(value, str):
        raise Invalid(f"not a list of answers: {str(value)[:60]}")
    lines = value.split("\n\n")[0].strip().splitlines()
    if len(lines) != 1:
        raise Invalid(f"one line of answers was asked for, the reply has {len(lines)}")
    return distinct_answers(lines[0].split(";"))


@functools.cache
def prompt(reasoning: bool = False, text_order: bool = False) -> Prompt:
    """Returns the question, which replies answer on one line.

    Args:
      reasoning: whether a line of reasoning comes before the answers.
      text_order: whether answers come in the order of the paragraph, not the most probable first.
    """
    template = read_template("extract_reasoning" if reasoning else "extract")
    if text_order:
        template = template.replace("the most probable first", "in the order in which the paragraph names them")
    parser = after_reasoning(_parse, "answers?") if reasoning else _parse
    answers = {"type": "array", "items": {"type": "string"}}
    return Prompt(template, parser, schema("answers", answers, reasoning=reasoning))


PROMPT = prompt()
