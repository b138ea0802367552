"""How probable does a paragraph make one answer? (paper section 4.2, the second half of a reader's forecast)"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from lc_jax.prompts.objects import labelled, labelled_prompt, stated
from lc_jax.prompts.prompt import Invalid, Prompt, Shot

# A decimal comma is read where it cannot separate thousands: "0,8" and "12,5%" are numbers, "1,000" is none.
_DECIMAL = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|0,[0-9]+|[0-9]{1,3},[0-9]{1,2}"
_NUMBER = re.compile(
    rf"({_DECIMAL})(e-?[0-9]+)?\s*(?:(%|per ?cent\b)|(?:/|out of)\s*([0-9]{{1,6}}))?\.?", re.IGNORECASE
)


def _number(text: str) -> float:
    """The value of "0.7", "0,7", "70%", "70 percent", "7/10" or "7 out of 10".

    Raises:
      Invalid: `text` is anything else.
    """
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise Invalid(f"not a probability: {text[:60]!r}")
    divisor = 100.0 if number[3] else float(number[4] or 1)
    if divisor == 0:
        raise Invalid(f"not a probability: {text[:60]!r}")
    return float(number[1].replace(",", ".") + (number[2] or "")) / divisor


def _parse(reply: str, fields: Mapping[str, str]) -> float:
    """A number in [0, 1]; "70%" is 0.7. Prose after a blank line is ignored, prose around the number is not."""
    value = stated(reply)
    if isinstance(value, str):
        value = _number(labelled(value, "probability").split("\n\n")[0].strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Invalid(f"not a probability: {str(value)[:60]}")
    if not 0 <= value <= 1:
        raise Invalid(f"a probability lies between 0 and 1, not at {str(value)[:60]}")
    return float(value)


_RIVER = (
    "I think that the river rises in the Tatra mountains (60%), or else in the Beskids (30%). It is almost certain to "
)
_RIVER += "end in the Baltic Sea. I have read that it is 410 km long."
SHOTS: tuple[Shot, ...] = (
    Shot(
        {"generated_paragraph": _RIVER, "question": "In which mountains does it rise?", "answer": "The Beskids"}, "0.3"
    ),
    Shot(
        {"generated_paragraph": _RIVER, "question": "In which mountains does it rise?", "answer": "The Sudetes"}, "0.05"
    ),
    Shot({"generated_paragraph": _RIVER, "question": "In which sea does it end?", "answer": "Baltic"}, "0.95"),
    Shot(
        {"generated_paragraph": _RIVER, "question": "How long is the river in kilometres?", "answer": "410 km"}, "1.0"
    ),
)

_REASONS = (
    "The paragraph gives the Beskids 30%.",
    "The paragraph does not name the Sudetes, and leaves 10% for other mountains.",
    "The paragraph is almost certain of the Baltic Sea.",
    "The paragraph gives this length; where its author read it expresses no doubt.",
)


@functools.cache
def prompt(reasoning: bool = False) -> Prompt:
    """The question, which replies answer with a number.

    Args:
      reasoning: whether a line of reasoning comes before it.
    """
    reply = "Reply with one number from 0 to 1 and nothing else."
    if reasoning:
        reply = """\
Reply with two lines: "Reasoning:" and what the paragraph says of the answer, then "Probability:" and one number from \
0 to 1."""
    rules = f"""\
Someone who knows nothing but the paragraph below has to say how probable it is that a given answer to a question is \
the right one. Which probability do the paragraph's statements support?

- Judge by the paragraph alone, even where you know better.
- A percentage or a fraction in the paragraph is to be taken at its word. Words of doubt count as well: "almost \
certain" is about 0.95, "likely" 0.75, "a toss-up" 0.5, "possibly" 0.3, "unlikely" 0.15.
- An answer stated flatly, without any doubt, has probability 1.
- An answer that the paragraph does not offer shares what the offered answers leave over: near 0 if they leave nothing.
- Another wording of the same answer is the same answer.
- {reply}"""
    form = "Paragraph: {generated_paragraph}\n\nQuestion: {question}\n\nAnswer: {answer}"
    number, reasons = {"type": "number"}, _REASONS if reasoning else None
    return labelled_prompt(rules, form, SHOTS, _parse, number, label="Probability", reasons=reasons)


PROMPT = prompt()
