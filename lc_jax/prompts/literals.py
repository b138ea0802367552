"""Lists written as text: by a language model in a reply, or by a spreadsheet in a cell. Nothing is ever executed."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

_NAMES = {
    "None": None, "null": None, "True": True, "true": True, "False": False, "false": False,
    "nan": float("nan"), "NaN": float("nan"), "inf": float("inf"), "Infinity": float("inf"),
}  # fmt: skip
_FENCE = re.compile(r"\A\s*```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def _value(node: ast.expr) -> Any:
    """The value of a literal's syntax tree: lists and tuples of numbers, strings and the names above."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
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
    """The value that `text` writes in Python form."""
    try:
        with warnings.catch_warnings():  # a stray backslash in a string is the writer's affair
            warnings.simplefilter("ignore")
            return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"not a literal: {text[:60]!r}") from error


def parse_list(text: str) -> list[Any]:
    """The list that `text` writes in JSON or Python form; nan, NaN, null, true and their like are values.

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


def unfence(reply: str) -> str:
    """The inside of a reply's opening code fence, or the reply itself, stripped."""
    fenced = _FENCE.match(reply)
    return (fenced.group(1) if fenced else reply).strip()


def leading_list(reply: str) -> list[Any]:
    """The list that a reply opens with; a code fence around it and prose after it are ignored.

    Raises:
      ValueError: the reply does not open with a list, or the list cannot be written as UTF-8.
    """
    text = unfence(reply)
    if not text.startswith("["):
        raise ValueError(f"no list at the start of {text[:60]!r}")
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        value = parse_list(text[: text.rfind("]") + 1])
    json.dumps(value, ensure_ascii=False).encode()  # an escape may have made half of a surrogate pair
    return value


def parse_object(text: str) -> dict[str, Any]:
    """The object that `text` opens with, in JSON or Python form; what follows its last brace is ignored.

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
