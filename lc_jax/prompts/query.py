"""Open-ended queries that never give the answer away, made of a question with its answer (paper section 3).

CLUE turns a Jeopardy! clue into a question first; PROMPT turns a question into the query.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence

from lc_jax.prompts.parsing import Invalid, final_value
from lc_jax.prompts.prompt import Prompt, read_template, schema

OPENING = "Write a paragraph about "
_EMPHASIZED = re.compile(r"(\*{1,3})([^*]+)\1")
_LABEL = re.compile(r"\A(?:request|question(?: [0-9]+)?)[ \t]*:\s*", re.IGNORECASE)


def request_fields(question: str, answers: Sequence[str]) -> dict[str, str]:
    """Returns the prompts' fields without a clue's category: `answers` lists the aliases in JSON."""
    return {"question": question, "answers": json.dumps(list(answers), ensure_ascii=False), "answer": answers[0]}


def _unaccented_words(text: str) -> list[str]:
    """Returns words without case and accents, and symbols (an emoji, a plus) one by one; punctuation is left out."""
    plain = ""
    for letter in unicodedata.normalize("NFKD", text).casefold():
        if not unicodedata.combining(letter):
            symbol = unicodedata.category(letter).startswith("S")
            plain += letter if letter.isalnum() else f" {letter} " if symbol else " "
    return plain.split()


def gives_away(text: str, answers: Sequence[str], question: str) -> str:
    """Returns the first alias of the answer that is word for word in `text` but not in `question`; "" if none is.

    What the question itself says ("was it Blur or Oasis?") is no secret.
    """
    text_words, question_words = (f" {' '.join(_unaccented_words(words))} " for words in (text, question))
    for answer in answers:
        alias = f" {' '.join(_unaccented_words(answer))} "
        if alias.strip() and alias in text_words and alias not in question_words:
            return answer
    return ""


def _one_line(reply: str) -> str:
    value = final_value(reply)
    if not isinstance(value, str):
        raise Invalid(f"text was asked for, not {str(value)[:60]}")
    lines = [line.strip() for line in _LABEL.sub("", value).splitlines() if line.strip()]
    if len(lines) != 1:
        raise Invalid(f"one line was asked for, the reply has {len(lines)}")
    emphasized = _EMPHASIZED.fullmatch(lines[0])
    line = emphasized[2] if emphasized else lines[0]
    return line[1:-1] if len(line) > 1 and line[0] == line[-1] == '"' and '"' not in line[1:-1] else line


def _keeping_secret(text: str, question: str, fields: Mapping[str, str]) -> str:
    alias = gives_away(text, json.loads(fields["answers"]), question)
    if alias:
        raise Invalid(f"it gives the answer away: {alias[:60]!r}")
    return text


def _parse(reply: str, fields: Mapping[str, str]) -> str:
    """Returns a request that opens with OPENING."""
    query = _one_line(reply)
    if not query.startswith(OPENING) or not query.removeprefix(OPENING).strip(" ."):
        raise Invalid(f"it does not go {OPENING + '...'!r}: {query[:60]!r}")
    return _keeping_secret(query, fields["question"], fields)


def _parse_clue(reply: str, fields: Mapping[str, str]) -> str:
    """Returns a question."""
    question = _one_line(reply)
    if not question.endswith("?"):
        raise Invalid(f"it is no question: {question[:60]!r}")
    return _keeping_secret(question, f"{fields['category']} {fields['question']}", fields)


_ANSWER = frozenset({"answer"})
PROMPT = Prompt(read_template("query"), _parse, schema("request", {"type": "string"}), unused=_ANSWER)
CLUE = Prompt(read_template("clue"), _parse_clue, schema("question", {"type": "string"}), unused=_ANSWER)
