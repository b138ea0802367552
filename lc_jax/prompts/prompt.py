"""A prompt: template text, the inverse of filling it in, and the parser of the reply, in one object."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lc_jax.prompts.parsing import Invalid, Parser, Truncated, strip_reasoning
from lc_jax.types import Message, PromptText

TEMPLATES = Path(__file__).parent / "templates"
_PLACEHOLDER = re.compile(r"\{([a-z][a-z_]*)\}")
# Placeholder names of the published template files.
_ALIASES = {"ground_truth_top_answer": "answer", "claims_list": "statements"}


def _stripped(reply: str, fields: Mapping[str, str]) -> str:
    return reply.strip()


def read_template(name: str) -> str:
    """Returns the text of `templates/<name>.txt`, without the line break that ends the file.

    The file is what the model reads, examples included; the placeholders of the request come last.
    """
    return (TEMPLATES / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")


def schema(name: str, value: Mapping[str, Any], *, reasoning: bool = False) -> str:
    """Returns the JSON schema of an object whose member `name` holds what the JSON schema `value` describes.

    Args:
      reasoning: whether a text `reasoning` precedes it.
    """
    properties = {"reasoning": {"type": "string"}, name: value} if reasoning else {name: value}
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    )


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Template text with {placeholders} of lower-case letters and underscores; any other brace is plain text.

    The published placeholders {ground_truth_top_answer} and {claims_list} are read as {answer} and {statements}.
    """

    template: str
    parser: Parser = _stripped  # (reply, fields of the request) -> value, or Invalid
    schema: str = ""  # JSON schema of a structured reply, which the parser reads too; "": text only
    unused: frozenset[str] = frozenset()  # fields that `render` takes although this wording does not show them
    derive: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None  # further fields from those of a request
    is_message: bool = False  # the text is a user's message, for the chat template of whatever model reads it

    @functools.cached_property
    def _pieces(self) -> tuple[list[str], list[str]]:
        """Returns literals and placeholder names: literal[0] name[0] literal[1] ... literal[-1]."""
        pieces = _PLACEHOLDER.split(self.template)
        return pieces[::2], [_ALIASES.get(name, name) for name in pieces[1::2]]

    @property
    def fields(self) -> tuple[str, ...]:
        """Returns the placeholder names in order of first appearance."""
        return tuple(dict.fromkeys(self._pieces[1]))

    def render(self, **fields: str) -> str:
        """Fills the placeholders in one pass, so that braces within a field's text are never read as a template.

        Raises:
          ValueError: a field is missing or unknown.
          TypeError: a field is not text.
        """
        unknown = [name for name in fields if name not in self.fields and name not in self.unused]
        if self.derive:
            fields |= self.derive(fields)
        missing = [name for name in self.fields if name not in fields]
        if missing or unknown:
            raise ValueError(f"Prompt fields missing: {missing}, unknown: {unknown}; it takes {list(self.fields)}.")
        for name, value in fields.items():
            if not isinstance(value, str):
                raise TypeError(f"Prompt field {name!r} must be text, not {type(value).__name__}.")
        literals, names = self._pieces
        return literals[0] + "".join(fields[name] + literal for name, literal in zip(names, literals[1:], strict=True))

    def prompt_text(self, **fields: str) -> PromptText:
        """Returns what a model reads: the filled-in text as it is, or as a user's message (`is_message`)."""
        text = self.render(**fields)
        return (Message("user", text),) if self.is_message else text

    def match(self, rendered: str) -> dict[str, str] | None:
        """Returns the fields from which `render` made `rendered`, or None if it did not come from this template.

        Where a field's own text holds the literal that follows it, several readings fit; then earlier fields are
        greedy, which means that every literal is taken at its last possible place. Rendering the answer always gives
        `rendered` back.
        """
        literals, names = self._pieces
        if self.derive:
            return None  # the fields that others were made from cannot be had back
        if not names:
            return {} if rendered == self.template else None
        first, last = literals[0], literals[-1]
        if len(rendered) < len(first) + len(last) or not (rendered.startswith(first) and rendered.endswith(last)):
            return None
        end = len(rendered) - len(last)
        values = []
        for literal in reversed(literals[1:-1]):
            place = rendered.rfind(literal, len(first), end)
            if place < 0:
                return None
            values.append(rendered[place + len(literal) : end])
            end = place
        values.append(rendered[len(first) : end])
        fields = dict(zip(names, reversed(values), strict=True))
        return fields if self.render(**fields) == rendered else None

    def parse(self, reply: str, fields: Mapping[str, str] | None = None) -> Any:
        """Returns the value that a reply states. `fields` are those of the request (a batch needs its size).

        Reasoning before the answer is removed first, for every parser.

        Raises:
          Truncated: the reply ends inside its reasoning.
          Invalid: the reply is not in the form that the prompt asks for.
        """
        answer = strip_reasoning(reply)
        if answer is None:
            raise Truncated("the reply ends inside its reasoning")
        if reply.strip() and not answer.strip():
            raise Invalid("no answer follows the reasoning")
        return self.parser(answer, fields or {})
