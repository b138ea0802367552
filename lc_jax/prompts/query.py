"""From a question with its answer to an open-ended query that never gives the answer away (paper section 3).

CLUE turns a Jeopardy! clue into a question first; PROMPT turns a question into the query.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence

from lc_jax.prompts.objects import schema, stated
from lc_jax.prompts.prompt import Invalid, Prompt, read_template

OPENING = "Write a paragraph about "
_EMPHASIZED = re.compile(r"(\*{1,3})([^*]+)\1")
_LABEL = re.compile(r"\A(?:request|question(?: [0-9]+)?)[ \t]*:\s*", re.IGNORECASE)


def asked(question: str, answers: Sequence[str]) -> dict[str, str]:
    """The prompts' fields but for a clue's category: `answers` is a JSON list of all forms, `answer` the usual one."""
    return {"question": question, "answers": json.dumps(list(answers), ensure_ascii=False), "answer": answers[0]}


def _words(text: str) -> list[str]:
    """Words without case and accents, and symbols (an emoji, a plus) one by one; punctuation is left out."""
    plain = ""
    for letter in unicodedata.normalize("NFKD", text).casefold():
        if not unicodedata.combining(letter):
            symbol = unicodedata.category(letter).startswith("S")
            plain += letter if letter.isalnum() else f" {letter} " if symbol else " "
    return plain.split()


def gives_away(text: str, answers: Sequence[str], question: str) -> str:
    """The first form of the answer that stands word for word in `text` but not in `question`; "" if none does.

    What the question itself says ("was it Blur or Oasis?") is no secret.
    """
    written, known = (f" {' '.join(_words(words))} " for words in (text, question))
    for answer in answers:
        form = f" {' '.join(_words(answer))} "
        if form.strip() and form in written and form not in known:
            return answer
    return ""


def _one_line(reply: str) -> str:
    value = stated(reply)
    if not isinstance(value, str):
        raise Invalid(f"text was asked for, not {str(value)[:60]}")
    lines = [line.strip() for line in _LABEL.sub("", value).splitlines() if line.strip()]
    if len(lines) != 1:
        raise Invalid(f"one line was asked for, the reply has {len(lines)}")
    emphasized = _EMPHASIZED.fullmatch(lines[0])
    line = emphasized[2] if emphasized else lines[0]
    return line[1:-1] if len(line) > 1 and line[0] == line[-1] == '"' and '"' not in line[1:-1] else line


def _keeping_secret(text: str, question: str, fields: Mapping[str, str]) -> str:
    given = gives_away(text, json.loads(fields["answers"]), question)
    if given:
        raise Invalid(f"it gives the answer away: {given[:60]!r}")
    return text


def _parse(reply: str, fields: Mapping[str, str]) -> str:
    """A request that opens with OPENING."""
    query = _one_line(reply)
    if not query.startswith(OPENING) or not query.removeprefix(OPENING).strip(" ."):
        raise Invalid(f"it does not go {OPENING + '...'!r}: {query[:60]!r}")
    return _keeping_secret(query, fields["question"], fields)


def _parse_clue(reply: str, fields: Mapping[str, str]) -> str:
    """A question."""
    question = _one_line(reply)
    if not question.endswith("?"):
        raise Invalid(f"it is no question: {question[:60]!r}")
    return _keeping_secret(question, f"{fields['category']} {fields['question']}", fields)


_ANSWER = frozenset({"answer"})
PROMPT = Prompt(read_template("query"), _parse, schema("request", {"type": "string"}), unused=_ANSWER)
CLUE = Prompt(read_template("clue"), _parse_clue, schema("question", {"type": "string"}), unused=_ANSWER)
