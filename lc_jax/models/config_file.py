"""config.json read key by key: what is missing, of another type or not implemented is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """The contents of a config.json. A key that is null counts as missing, as transformers has it.

    All methods raise ValueError, naming the key, where a value is missing without a default or is of another type.
    """

    raw: Mapping[str, Any]

    def integer(self, key: str, default: int | None = None) -> int:
        """Returns a whole number above 0 that 31 bits hold."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 2**31 or value % 1:
            raise ValueError(f"config.json: {key} must be a whole number from 1 to {2**31 - 1}, not {value!r}.")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a number above 0 and below 1e30."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise ValueError(f"config.json: {key} must be a number above 0, not {value!r}.")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Returns a list of numbers above 0 and below 1e30."""
        values = self._value(key, None)
        if not isinstance(values, list):
            raise ValueError(f"config.json: {key} must be a list of numbers, not {values!r}.")
        return tuple(ConfigFile({key: value}).number(key) for value in values)

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"config.json: {key} must be true or false, not {value!r}.")
        return value

    def text(self, key: str, default: str) -> str:
        """Returns a text."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise ValueError(f"config.json: {key} must be text, not {value!r}.")
        return value

    def token_id(self, key: str) -> int | None:
        """Returns a token id, or None."""
        value = self.raw.get(key)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"config.json: {key} must be a token id, not {value!r}.")
        return value

    def group(self, key: str) -> dict[str, Any]:
        """Returns an object of further keys; empty where there is none."""
        value = self.raw.get(key) or {}
        if not isinstance(value, dict):
            raise ValueError(f"config.json: {key} must be an object, not {value!r}.")
        return dict(value)

    def head_size(self) -> int:
        """Returns hidden_size / num_attention_heads."""
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        if hidden % heads:
            raise ValueError(f"config.json: hidden_size {hidden} does not divide by num_attention_heads {heads}.")
        return hidden // heads

    def _value(self, key: str, default: Any) -> Any:
        value = self.raw.get(key)
        if value is None and default is None:
            raise ValueError(f"config.json: {key} is missing; take the file of the checkpoint's own model.")
        return default if value is None else value
