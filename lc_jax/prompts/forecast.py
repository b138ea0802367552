"""The probability that a paragraph gives to one answer (paper section 4.2, the second half of a reader's forecast)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from lc_jax.prompts.parsing import Invalid, after_label, after_reasoning, final_value
from lc_jax.prompts.prompt import Prompt, read_template, schema

# A decimal comma is read where it cannot separate thousands: "0,8" and "12,5%" are numbers, "1,000" is none.
_DECIMAL = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|0,[0-9]+|[0-9]{1,3},[0-9]{1,2}"
_NUMBER = re.compile(
    rf"({_DECIMAL})(e-?[0-9]+)?\s*(?:(%|per ?cent\b)|(?:/|out of)\s*([0-9]{{1,6}}))?\.?", re.IGNORECASE
)


def _number(text: str) -> float:
    """Returns the value of "0.7", "0,7", "70%", "70 percent", "7/10" or "7 out of 10".

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
    """Returns a number in [0, 1]; "70%" is 0.7. Prose after a blank line is ignored, prose around the number is not."""
    value = final_value(reply)
    if isinstance(value, str):
        value = _number(after_label(value, "probability").split("\n\n")[0].strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Invalid(f"not a probability: {str(value)[:60]}")
    if not 0 <= value <= 1:
        raise Invalid(f"a probability is between 0 and 1, not {str(value)[:60]}")
    return float(value)


@functools.cache
def prompt(reasoning: bool = False) -> Prompt:
    """Returns the question, which replies answer with a number.

    Args:
      reasoning: whether a line of reasoning comes before it.
    """
    name = "forecast_reasoning" if reasoning else "forecast"
    parser = after_reasoning(_parse, "probabilitys?") if reasoning else _parse
    return Prompt(read_template(name), parser, schema("probability", {"type": "number"}, reasoning=reasoning))


PROMPT = prompt()
