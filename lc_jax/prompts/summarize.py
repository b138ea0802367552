"""Summary distillation (paper section 4.1): several sampled paragraphs become one that says how sure its author is."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lc_jax.prompts.parsing import one_paragraph
from lc_jax.prompts.prompt import Prompt, read_template, schema


def join_paragraphs(paragraphs: Sequence[str]) -> str:
    """Returns the prompt's field `paragraphs`: one JSON string a line, so that no paragraph can pass for two."""
    return "\n".join(json.dumps(paragraph, ensure_ascii=False) for paragraph in paragraphs)


def split_paragraphs(joined: str) -> list[str]:
    """Inverse of join_paragraphs."""
    return [json.loads(line) for line in joined.split("\n") if line]


PROMPT = Prompt(
    read_template("summarize"),
    one_paragraph,
    schema("paragraph", {"type": "string"}),
)
