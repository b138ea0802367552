"""Which answers to a question does a paragraph offer? (paper section 4.2, the first half of a reader's forecast)"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from lc_jax.prompts.answer_list import NO_ANSWER, distinct
from lc_jax.prompts.literals import leading_list
from lc_jax.prompts.objects import labelled, labelled_prompt, stated
from lc_jax.prompts.prompt import Invalid, Prompt, Shot


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


SHOTS: tuple[Shot, ...] = (
    Shot(
        {
            "generated_paragraph": "The bridge took nine years to build. I am fairly sure that it was finished in 1932 "
            "(80%), though 1934 is possible (20%).",
            "question": "In what year was the bridge finished?",
        },
        "1932; 1934",
    ),
    Shot(
        {
            "generated_paragraph": "Quartz is a hard mineral of silicon and oxygen, and its purple variety has been "
            "worn as a gem since antiquity.",
            "question": "What is the purple variety of quartz called?",
        },
        NO_ANSWER,
    ),
    Shot(
        {
            "generated_paragraph": "The opera was first given in Prague, not in Vienna as is often said. It was "
            "written by Lorenzo Da Ponte.",
            "question": "In which city was the opera first performed?",
        },
        "Prague",
    ),
    Shot(
        {
            "generated_paragraph": "The record for the 100 metres was held by either Jesse Owens, Harold Davis or, "
            "least likely, Lloyd LaBeach.",
            "question": "Who held the record for the 100 metres?",
        },
        "Jesse Owens; Harold Davis; Lloyd LaBeach",
    ),
)

# What the paragraphs of SHOTS say of their questions.
_REASONS = (
    "The paragraph gives two years in which the bridge may have been finished.",
    "The paragraph mentions a purple variety, but does not name it.",
    "The paragraph rules Vienna out and names one other city.",
    "The paragraph names three holders of the record and calls the third the least likely.",
)


@functools.cache
def prompt(reasoning: bool = False, text_order: bool = False) -> Prompt:
    """The question, which replies answer on one line.

    Args:
      reasoning: whether a line of reasoning comes before the answers.
      text_order: whether answers stand in the order of the paragraph; otherwise the most probable comes first.
    """
    order = "in the order in which the paragraph names them" if text_order else "the most probable first"
    rules = f"""\
Read the paragraph and list every answer to the question that it offers as possible, however unlikely it calls it.

- Take answers from the paragraph alone, even where you know better.
- Give each answer in the shortest form that is clear by itself, once.
- An answer that the paragraph rules out is not offered.
- Write the answers on one line, {order}, with "; " between them.
- If the paragraph offers no answer to the question, write: {NO_ANSWER}"""
    if reasoning:
        rules += """
- Write two lines: "Reasoning:" and which statements of the paragraph bear on the question, then "Answers:" and the \
answers."""
    form = "Paragraph: {generated_paragraph}\n\nQuestion: {question}"
    answers, reasons = {"type": "array", "items": {"type": "string"}}, _REASONS if reasoning else None
    return labelled_prompt(rules, form, SHOTS, _parse, answers, label="Answers", reasons=reasons)


PROMPT = prompt()
