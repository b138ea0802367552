"""Summary distillation (paper section 4.1): several sampled paragraphs become one that says how sure its author is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from lc_jax.prompts.prompt import Invalid, Prompt

NUM_PARAGRAPHS = 8  # M, the paragraphs sampled for one query


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
    blocks = [block for block in reply.strip().replace("\r\n", "\n").split("\n\n") if block.strip()]
    if len(blocks) != 1:
        raise Invalid(f"one paragraph was asked for, the reply has {len(blocks)}")
    return blocks[0].strip()


PROMPT = Prompt(
    """\
One author was asked for the same paragraph several times over. The drafts follow, one a line, each written as a JSON \
string. Where the drafts agree, the author is sure of a statement; where they differ, the author is not.

Merge them into a single paragraph, as the author would write it, in the first person:
- For every claim that matters, say how sure I am in per cent. The share of drafts that make the claim is a good \
guide: six of eight is about 75%.
- Where the drafts contradict one another, name each alternative with its own percentage. Percentages of alternatives \
that exclude one another must not add up to more than 100%.
- Rare details may carry words in place of a number ("I am unsure whether", "possibly").
- Use only what the drafts say. Correct nothing from your own knowledge, however wrong it looks.
- Do not mention the drafts, and write nothing before or after the paragraph.

Request to the author: {paragraph_generation_prompt}

Drafts:
{paragraphs}

Merged paragraph:""",
    one_paragraph,
)
