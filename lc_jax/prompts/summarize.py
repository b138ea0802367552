"""Summary distillation (paper section 4.1): several sampled paragraphs become one that says how sure its author is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from lc_jax.prompts.objects import schema, stated
from lc_jax.prompts.prompt import Invalid, Prompt, read_template

_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def join_paragraphs(paragraphs: Sequence[str]) -> str:
    """The prompt's field `paragraphs`: one JSON string a line, so that no paragraph can pass for two."""
    return "\n".join(json.dumps(paragraph, ensure_ascii=False) for paragraph in paragraphs)


def split_paragraphs(joined: str) -> list[str]:
    """Inverse of join_paragraphs."""
    return [json.loads(line) for line in joined.split("\n") if line]


def one_paragraph(reply: str, fields: Mapping[str, str]) -> str:
    """The reply as a single paragraph.

    Raises:
      Invalid: the reply is empty or has more than one paragraph (a preamble, say).
    """
    text = stated(reply)
    if not isinstance(text, str):
        raise Invalid(f"a paragraph of text was asked for, not {str(text)[:60]}")
    blocks = [block for block in _BLANK_LINE.split(text.replace("\r\n", "\n")) if block.strip()]
    if len(blocks) != 1:
        raise Invalid(f"one paragraph was asked for, the reply has {len(blocks)}")
    return blocks[0].strip()


PROMPT = Prompt(
    read_template("summarize"),
    one_paragraph,
    schema("paragraph", {"type": "string"}),
)
