"""Prompts by which a base model writes a paragraph: eight examples, then the query (paper section 4.1).

CONFIDENT shows paragraphs that state confidence, in the way of summary distillation: a baseline of the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping

from lc_jax.prompts.parsing import first_paragraph
from lc_jax.prompts.prompt import Prompt, read_template


def _parse(reply: str, fields: Mapping[str, str]) -> str:
    """Returns the paragraph that answers the query."""
    return first_paragraph(reply)


PROMPT = Prompt(read_template("in_context"), _parse)
CONFIDENT = Prompt(read_template("confident_in_context"), _parse)
