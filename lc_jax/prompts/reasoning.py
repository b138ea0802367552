"""Removes the reasoning that a model writes before its answer, in the forms that servers leave it in the text."""

from __future__ import annotations

import re

_NAMES = "think|thinking|thought|reasoning"
_TAG = re.compile(rf"<(/?)({_NAMES})>|\[(/?)(THINK)\]", re.IGNORECASE)
# A closing tag in quotation marks or backticks is one that an answer speaks of.
_LONE_END = re.compile(rf"(?<![`\"'“])(?:</(?:{_NAMES})>|\[/THINK\])(?![`\"'”])", re.IGNORECASE)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>(.*?)(?:<\|(?:return|end)\|>|\Z)", re.DOTALL)
_CHANNEL = re.compile(r"\A\s*(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b")


def strip_reasoning(reply: str) -> str | None:
    """Returns the part of a reply that follows its reasoning; the reply itself if it holds none.

    Reasoning is a block <think> ... </think> (or thinking, thought, reasoning, [THINK]) that opens the reply, all text
    before a closing tag whose opening tag the server removed, or the analysis channel of the harmony format. A tag
    elsewhere is part of the answer.

    Returns:
      The answer; None if the reasoning has no end, as in a reply that was cut off.
    """
    if _CHANNEL.match(reply):
        final = _FINAL_CHANNEL.search(reply)
        return final[1] if final else None
    text = reply
    while (opening := _TAG.match(text.lstrip())) and not (opening[1] or opening[3]):
        text = text.lstrip()
        end = _end_of_block(text, (opening[2] or opening[4]).casefold())
        if end is None:
            return None
        text = text[end:]
    if text is reply and (lone := _LONE_END.search(text)) and not _opens_before(text, lone.start()):
        return text[lone.end() :]
    return text


def _opens_before(text: str, place: int) -> bool:
    """Whether an opening tag precedes `place`: then both tags are quoted by the answer."""
    return any(not (tag[1] or tag[3]) for tag in _TAG.finditer(text, 0, place))


def _end_of_block(text: str, name: str) -> int | None:
    """The position after the closing tag of the block that opens `text`; None if there is none.

    Reasoning may quote the same tags. If its quotes leave tags unbalanced, the last closing tag ends it.
    """
    depth, last = 0, None
    for tag in _TAG.finditer(text):
        if (tag[2] or tag[4]).casefold() != name:
            continue
        is_closing = bool(tag[1] or tag[3])
        depth += -1 if is_closing else 1
        last = tag.end() if is_closing else last
        if depth == 0:
            return tag.end()
    return last
