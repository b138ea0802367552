"""How a base model is brought to write a paragraph: eight examples, then the query (paper section 4.1).

CONFIDENT shows paragraphs that state confidence, in the way of summary distillation: a baseline of the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping

from lc_jax.prompts.prompt import Prompt, read_template


def first_paragraph(text: str) -> str:
    """What a base model wrote, up to the first blank line: it goes on with examples of its own."""
    return text.replace("\r\n", "\n").strip().split("\n\n")[0].strip()


def _parse(reply: str, fields: Mapping[str, str]) -> str:
    """The paragraph that answers the query."""
    return first_paragraph(reply)


PROMPT = Prompt(read_template("in_context"), _parse)
CONFIDENT = Prompt(read_template("confident_in_context"), _parse)
