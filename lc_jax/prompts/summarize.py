"""Summary distillation (paper section 4.1): several sampled paragraphs become one that says how sure its author is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from lc_jax.prompts.objects import schema, stated
from lc_jax.prompts.prompt import Invalid, Shot, few_shot

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


_BELL = "Write a paragraph about the architect of the bell tower in Pisa's cathedral square."
SHOTS = (
    Shot(
        {
            "paragraph_generation_prompt": _BELL,
            "paragraphs": join_paragraphs(
                [
                    "The tower is usually given to Bonanno Pisano, who began it in 1173. It has seven bells.",
                    "Diotisalvi is thought to have designed the tower, whose building began in 1173.",
                    "Bonanno Pisano built the tower from 1174 on. It leans because its ground is soft.",
                    "The architect was Bonanno Pisano. Work on the tower was begun in 1173.",
                ]
            ),
        },
        "I think that the tower's architect was Bonanno Pisano (75%), although it may have been Diotisalvi (25%). I am "
        "about 75% sure that building began in 1173; it could also have been 1174 (25%). Possibly the tower has seven "
        "bells, and possibly it leans because its ground is soft, but I am unsure of either.",
    ),
)

PROMPT = few_shot(
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
- Do not mention the drafts, and write nothing before or after the paragraph.""",
    "Request to the author: {paragraph_generation_prompt}\n\nDrafts:\n{paragraphs}\n\nMerged paragraph:",
    SHOTS,
    one_paragraph,
    schema("paragraph", {"type": "string"}),
)
