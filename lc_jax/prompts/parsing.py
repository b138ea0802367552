"""Reads values out of replies: reasoning, JSON and Python literals, labels, Markdown, paragraphs, lists of answers.

Nothing that a reply holds is ever executed. The parser of each question is next to its prompt and calls these.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Parser = Callable[[str, Mapping[str, str]], Any]  # (reply, fields of the request) -> value, or Invalid


class Invalid(ValueError):
    """A reply that cannot be parsed; the same request may be sent again."""


class Truncated(Invalid):
    """A reply that ends inside its reasoning: no answer can be expected from the same request."""


# --- reasoning -------------------------------------------------------------------------------------------------------

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
    lone = _LONE_END.search(text) if text is reply else None
    # An opening tag before the closing one means that the answer quotes both.
    if lone is None or any(not (tag[1] or tag[3]) for tag in _TAG.finditer(text, 0, lone.start())):
        return text
    return text[lone.end() :]


def _end_of_block(text: str, name: str) -> int | None:
    """Returns the position after the closing tag of the block that opens `text`; None if there is none.

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


def after_reasoning(parser: Parser, word: str) -> Parser:
    """Returns `parser` for replies that reason first: it reads what the last line with the label states.

    Of an object it reads the member of that name, or the last one. A reply without the label is Invalid, because its
    reasoning could pass for an answer.

    Args:
      word: a pattern for the label, which opens a line: "answers?" for "Answers: A; B".
    """
    label = re.compile(rf"^[#>\s]*(?:{word})[ \t]*:\s*(\S.*)$", re.IGNORECASE | re.MULTILINE)

    def parse(reply: str, fields: Mapping[str, str]) -> Any:
        parts = object_members(reply)
        if parts is not None:
            name = next((key for key in parts if re.fullmatch(word, key, re.IGNORECASE)), list(parts)[-1])
            return parser(json.dumps({name: parts[name]}), fields)
        statements = label.findall("\n".join(map(strip_markup, unfence(reply).splitlines())))
        if not statements:
            raise Invalid(f"no line begins with the label {word.removesuffix('?').capitalize()!r} and a colon")
        return parser(statements[-1].strip(), fields)

    return parse


# --- literals: lists and objects in JSON or Python form, in a reply or in a cell of a spreadsheet ---------------------

_CONSTANTS = {
    "None": None, "null": None, "True": True, "true": True, "False": False, "false": False,
    "nan": float("nan"), "NaN": float("nan"), "inf": float("inf"), "Infinity": float("inf"),
}  # fmt: skip
_FENCE = re.compile(r"\A\s*```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def _value(node: ast.expr) -> Any:
    """Returns the value of a literal's syntax tree: lists and tuples of numbers, strings and the constants above."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_value(item) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.Dict):
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if isinstance(number, (int, float)):
            return -number
    raise ValueError(f"not a literal: {type(node).__name__}")


def _literal(text: str) -> Any:
    """Returns the value that `text` writes in Python form."""
    try:
        with warnings.catch_warnings():  # a stray backslash in a string is the writer's affair
            warnings.simplefilter("ignore")
            return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"not a literal: {text[:60]!r}") from error


def parse_list(text: str) -> list[Any]:
    """Returns the list that `text` writes in JSON or Python form; nan, NaN, null, true and their like are values.

    Raises:
      ValueError: `text` is not one list of literals.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _literal(text)
    if not isinstance(value, list):
        raise ValueError(f"not a list: {text[:60]!r}")
    return value


def parse_object(text: str) -> dict[str, Any]:
    """Returns the object that `text` opens with, in JSON or Python form; what follows its last brace is ignored.

    Raises:
      ValueError: `text` does not open with an object whose keys are text.
    """
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        value = _literal(text[: text.rfind("}") + 1])
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"not an object: {text[:60]!r}")
    return value


def unfence(reply: str) -> str:
    """Returns the inside of a reply's opening code fence, or the reply itself, stripped."""
    block = _FENCE.match(reply)
    return (block[1] if block else reply).strip()


def leading_list(reply: str) -> list[Any]:
    """Returns the list that a reply opens with; a code fence around it and prose after it are ignored.

    Raises:
      Invalid: the reply does not open with a list, or the list cannot be written as UTF-8.
    """
    text = unfence(reply)
    if not text.startswith("["):
        raise Invalid(f"no list at the start of {text[:60]!r}")
    try:
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            value = parse_list(text[: text.rfind("]") + 1])
        json.dumps(value, ensure_ascii=False).encode()  # an escape may have made half of a surrogate pair
    except ValueError as error:
        raise Invalid(str(error)) from error
    return value


def object_members(reply: str) -> dict[str, Any] | None:
    """Returns the members of the object that a reply opens with, in order; None if it opens with none.

    A code fence around the object and prose after it are ignored.

    Raises:
      Invalid: what opens as an object is none, or is empty, or cannot be written as UTF-8.
    """
    text = unfence(reply)
    if not text.startswith("{"):
        return None
    try:
        parts = parse_object(text)
        json.dumps(parts, ensure_ascii=False).encode()  # an escape may have made half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise Invalid(f"it opens with a brace, but is no JSON object: {text[:60]!r}") from error
    if not parts:
        raise Invalid("the JSON object is empty")
    return parts


def final_value(reply: str) -> Any:
    """Returns the last member of the object that a reply opens with, or else its text, stripped.

    Members before the last one are reasoning.

    Raises:
      Invalid: see `object_members`; or the text cannot be written as UTF-8.
    """
    parts = object_members(reply)
    if parts is not None:
        return list(parts.values())[-1]
    text = unfence(reply)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid("it holds half of a surrogate pair") from error
    return text


# --- labels and Markdown ---------------------------------------------------------------------------------------------

# Markdown around words, but not the asterisks of M*A*S*H or 2**8.
_EMPHASIS = re.compile(r"(?<![\w*`])(\*{1,3}|`)(?=\S)([^\n]{0,500}?\S)\1(?![\w*`])")
_BOXED = re.compile(r"\$*\\boxed\{(?:\\text\{)?([^{}]*)\}?\}\$*")
_JSON_LIST = re.compile(r"[\w \t:]{0,40}\[")
_ANSWER_TAGS = re.compile(r"<answer>(.*)</answer>", re.IGNORECASE | re.DOTALL)
_FINAL_ANSWER = re.compile(
    r"^[#\s]*(?:the |my )?final answer[ \t]*(?:is\b[ \t]*:?|:|$)\s*(.+)$", re.IGNORECASE | re.MULTILINE
)


def strip_markup(text: str) -> str:
    """Removes Markdown emphasis, code marks, answer tags and LaTeX boxes around the words of a short answer.

    A JSON list stays as it is: its strings are quoted already.
    """
    if _JSON_LIST.match(text):
        return text
    tags = _ANSWER_TAGS.search(text)
    text = _EMPHASIS.sub(r"\2", tags[1] if tags else text).strip()
    boxes = _BOXED.findall(text)
    return str(boxes[0]).strip() if len(boxes) == 1 else text


def after_label(text: str, word: str) -> str:
    """Returns what follows a label such as "Answers:" or "Final answer:", without Markdown emphasis.

    The label opens `text`, or is on the one line that has such a label; a line "Final answer: ..." has precedence.

    Args:
      word: a pattern for the label's word. At the start it is alone; on a later line others may be around it.
    """
    text = strip_markup(text)
    final = _FINAL_ANSWER.findall(text)
    if len(final) == 1:
        return str(final[0]).strip()
    if "\n" not in text:
        start = rf"\A(?:(?:possible |final )?(?:{word})|answer)[ \t]*:[ \t]*"
        return re.sub(start, "", text, flags=re.IGNORECASE)
    label = rf"^[^:\n]{{0,100}}\b(?:{word})\b[^:\n]{{0,100}}:[ \t]*(.*)"
    texts = re.findall(label, text, re.IGNORECASE | re.MULTILINE)
    return str(texts[0]).strip() if len(texts) == 1 else text


def verdict(reply: str, words: Mapping[str, Any], label: str, expected: str) -> Any:
    """Returns the value of the one word that a reply consists of; a label before it and prose after it are ignored.

    Args:
      words: values by their words in lower case.
      label: a pattern for the label's word.
      expected: what the reply should have been, for the error's message.

    Raises:
      Invalid: the reply is none of `words`.
    """
    text = after_label(str(final_value(reply)), label).split("\n\n")[0].strip().removesuffix(".").casefold()
    if text not in words:
        raise Invalid(f"{expected}: {text[:60]!r}")
    return words[text]


# --- paragraphs ------------------------------------------------------------------------------------------------------

_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def one_paragraph(reply: str, fields: Mapping[str, str]) -> str:
    """Returns the reply as a single paragraph.

    Raises:
      Invalid: the reply is empty or has more than one paragraph (a preamble, say).
    """
    text = final_value(reply)
    if not isinstance(text, str):
        raise Invalid(f"a paragraph of text was asked for, not {str(text)[:60]}")
    blocks = [block for block in _BLANK_LINE.split(text.replace("\r\n", "\n")) if block.strip()]
    if len(blocks) != 1:
        raise Invalid(f"one paragraph was asked for, the reply has {len(blocks)}")
    return blocks[0].strip()


def first_paragraph(text: str) -> str:
    """Returns a text up to the first blank line: after it a base model writes further examples of its own."""
    return text.replace("\r\n", "\n").strip().split("\n\n")[0].strip()


# --- answers as one line of text: "A; B", or "No Answer" -------------------------------------------------------------

NO_ANSWER = "No Answer"
_NO_ANSWER = re.compile(r"no answers?\.?", re.IGNORECASE)


def distinct_answers(answers: list[str]) -> list[str]:
    """Returns answers stripped, without blanks, duplicates and "No Answer", in the order of their first appearance.

    "No Answer" may be in any case, in the plural and with a full stop.
    """
    stripped = dict.fromkeys(answer.strip() for answer in answers)
    return [answer for answer in stripped if answer and not _NO_ANSWER.fullmatch(answer)]


def join_answers(answers: list[str]) -> str:
    """Returns the line that the extractor is trained to write; inverse of postprocess_answers."""
    return "; ".join(dict.fromkeys(answers)) or NO_ANSWER


def postprocess_answers(text: str, strict: bool = False) -> list[str]:
    """Returns the distinct answers A in the extractor's output, in the order of their first appearance.

    As published, only the exact text "No Answer" is empty, and a blank between separators is an answer; `strict`
    drops blanks and every spelling of "No Answer".

    Reference: rl/rl_trainer.py:postprocess_answer_extractions. Differs: the order is that of the text, not of a set.
    """
    answers = text.split(";")
    if strict:
        return distinct_answers(answers)
    return [] if text == NO_ANSWER else list(dict.fromkeys(answer.strip() for answer in answers))
