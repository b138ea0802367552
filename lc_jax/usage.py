"""Text of --help: the command line, and a config's text, modes and settings with type, default and comment."""

from __future__ import annotations

import ast
import functools
import itertools
import operator
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lc_jax import settings
from lc_jax.preflight import Problems

USAGE = """Usage: python -m lc_jax.main --config=FILE[:MODE] [--config.NAME=VALUE ...] [-v=1]

With --help after --config=FILE[:MODE] it prints the modes and settings of an experiment; -v=1 prints more, and the
traceback of an error.
"""
_NO_MODE = "no-such-mode"
_TYPES = {bool: "bool", int: "int", float: "float", tuple: "list", list: "list"}  # all others are text


def render(arguments: Sequence[str]) -> str:
    """Returns what --help prints for a command line.

    Raises:
      Problems: as in `settings.parse`.
    """
    file, overrides, _ = settings.split(arguments)
    path = file.partition(":")[0]
    if not file:
        return f"{USAGE}\n{settings.list_experiments()}"
    values = [f"--config.{name}" + ("" if value is None else f"={value}") for name, value in overrides.items()]
    config = settings.parse([f"--config={file}", *values])[0]
    defaults = dict(settings.flat(settings.parse([f"--config={file}"])[0]))
    comments = Comments(settings.find(path))
    lines = []
    for name, value in settings.flat(config):
        notes = [] if value == defaults[name] else [f"default {_text(defaults[name])}"]
        notes += filter(None, [comments.of(name, config)])
        if name != "task":
            kind = _TYPES.get(type(value), "text")
            lines.append(f"  {f'--config.{name}={_text(value)}':<48} {kind:<5} {'; '.join(notes)}".rstrip())
    return (
        f"{USAGE}\n{path}: {describe(path)}\n\nModes: {_sentence_of_modes(path)}\n\n"
        "Settings with the values of this command, types and meaning; lists are written as a,b, and an empty value "
        "means none:\n" + "\n".join(lines)
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value).replace("\n", "\\n")


def describe(file: str) -> str:
    """Returns the docstring of a config file."""
    return (ast.get_docstring(ast.parse(settings.find(file).read_text(encoding="utf-8"))) or "").strip()


def modes(file: str) -> list[str]:
    """Returns the modes that a config file takes, such as "mini"; without one it can always be given alone."""
    return re.findall(r"':(\w+)'", _sentence_of_modes(file))


def _sentence_of_modes(file: str) -> str:
    try:
        settings.load(file, _NO_MODE)
    except Problems as error:  # "unknown mode ...: give the config file alone, or with ':mini'."
        return str(error).rpartition(f"mode ':{_NO_MODE}': ")[2]
    return "any"


class Comments:
    """The comments at the ends of the lines that set settings: in a config's file, what it calls of base.py, the rest.

    A line in a branch, such as `if mode == "mini"`, explains the value of that mode and is left out.

    Args:
      path: the config file.
    """

    def __init__(self, path: Path) -> None:
        self._by_name: dict[str, str] = {}
        self._dicts: list[dict[str, str]] = []  # of each dict in the source: name in it -> comment
        base = settings.REPOSITORY / "configs" / "base.py"
        functions = {node.name: node for node in ast.parse(base.read_text(encoding="utf-8")).body
                     if isinstance(node, ast.FunctionDef)}  # fmt: skip
        self._lines = _end_comments(path)
        todo = self._read(ast.parse(path.read_text(encoding="utf-8")))
        self._lines = _end_comments(base)
        while name := next(filter(todo.__contains__, functions), None):
            todo |= self._read(functions.pop(name))
        for function in functions.values():  # the same settings, of other experiments
            self._read(function)

    def of(self, name: str, config: ConfigDict) -> str:
        """Returns the comment of a setting, or of the nearest group that has one; "" without any."""
        group, _, field = name.rpartition(".")
        holder = functools.reduce(operator.getitem, filter(None, group.split(".")), config)
        fitting = (fields for fields in self._dicts if all(key.partition(".")[0] in holder for key in fields))
        comments = [self._by_name.get(name), *(fields.get(field) for fields in fitting)]
        return next(filter(None, comments), "") or (self.of(group, config) if group else "")

    def _read(self, node: ast.AST) -> set[str]:
        """Collects the comments under a node; returns the names in it, those of functions among them."""
        names = set()
        for branch in [child for child in ast.walk(node) if isinstance(child, ast.If)]:
            branch.body = []
        for child in ast.walk(node):
            if isinstance(child, ast.Assign):
                values = child.value.elts if isinstance(child.value, ast.Tuple) else [child.value]
                inside = [self._inside(name, values[-1]) for target in child.targets for name in _targets(target)]
                comments = {name: comment for name, comment in itertools.chain(*inside) if comment}
                self._by_name = comments | self._by_name
            elif isinstance(child, ast.Dict | ast.Call):
                inside = [self._inside(name, value) for name, value in _fields(child)]
                self._dicts += [dict(itertools.chain(*inside))] * bool(inside)
            names.add(getattr(child, "attr", getattr(child, "id", "")))
        return names

    def _inside(self, name: str, value: ast.expr) -> Iterator[tuple[str, str]]:
        """Yields (name, comment or "") of a setting, and of the settings in it where it is a group."""
        yield name, self._lines.get(value.end_lineno or 0, "")
        for field, inner in _fields(value):
            yield from self._inside(f"{name}.{field}", inner)


def _end_comments(path: Path) -> dict[int, str]:
    """The comments after code, by number of the line."""
    comments = {}
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            text = token.string.lstrip("# ")
            if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip() and not text.startswith("fmt:"):
                comments[token.start[0]] = text
    return comments


def _targets(target: ast.expr) -> list[str]:
    """The names of the settings that an assignment sets: "ppo.keep" for `config.ppo.keep`; none for a variable."""
    if isinstance(target, ast.Tuple):
        return [name for element in target.elts for name in _targets(element)]
    return [ast.unparse(target).partition(".")[2]] if isinstance(target, ast.Attribute) else []


def _fields(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Yields (name, value) of a dict: {...}, dict(...), ConfigDict(...), or several with | between them."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from (*_fields(node.left), *_fields(node.right))
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("dict", "ConfigDict"):
        yield from ((keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg)
        for argument in node.args:
            yield from _fields(argument)
