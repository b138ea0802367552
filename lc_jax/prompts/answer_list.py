"""Answers as one line of text, which the extractor is trained to write: "A; B", or "No Answer"."""

from __future__ import annotations

import re

NO_ANSWER = "No Answer"
_NO_ANSWER = re.compile(r"no answers?\.?", re.IGNORECASE)


def is_no_answer(text: str) -> bool:
    """Whether `text` says that a paragraph offers no answer, whatever the case, plural and final stop."""
    return bool(_NO_ANSWER.fullmatch(text.strip()))


def distinct(answers: list[str]) -> list[str]:
    """Answers stripped, without blanks, duplicates and "No Answer", in the order of their first appearance."""
    stripped = dict.fromkeys(answer.strip() for answer in answers)
    return [answer for answer in stripped if answer and not is_no_answer(answer)]


def join_answers(answers: list[str]) -> str:
    """The form that the extractor is trained to write; inverse of postprocess_answers."""
    return "; ".join(dict.fromkeys(answers)) or NO_ANSWER


def postprocess_answers(text: str, strict: bool = False) -> list[str]:
    """The distinct answers A in the extractor's output, in the order of their first appearance.

    As published, only the exact text "No Answer" is empty, and a blank between separators is an answer; `strict`
    drops blanks and every spelling of "No Answer".

    Reference: rl/rl_trainer.py:postprocess_answer_extractions. Differs: the order is that of the text, not of a set.
    """
    answers = text.split(";")
    if strict:
        return distinct(answers)
    return [] if text == NO_ANSWER else list(dict.fromkeys(answer.strip() for answer in answers))
