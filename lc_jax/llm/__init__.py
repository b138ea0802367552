"""Language models that are asked in text: data generation and evaluation (paper sections 4.1, 4.2 and 5).

`load("provider/model")` gives an Annotator; `annotate` renders, asks, parses and asks again.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from lc_jax.types import Reply, Request

# Imported by name on demand: a provider may need its vendor's package, or JAX, which asking an API must not.
PROVIDERS = {
    "anthropic": "lc_jax.llm.anthropic",
    "openai": "lc_jax.llm.openai",
    "local": "lc_jax.llm.local",
    "simulated": "lc_jax.llm.simulated",
}


class AnnotatorError(ValueError):
    """What no retry can mend: a bad key, an unknown model, a spent budget. Replies that came before it are kept."""


class Annotator(Protocol):
    """Whoever answers requests in text."""

    @property
    def name(self) -> str:
        """ "provider/model", as written into records."""
        ...

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """(index of the request, reply) as replies arrive: in any order, each index once.

        `requests` is read lazily, in the thread of the caller, so that memory does not grow with their number. A
        request that cannot be answered is a reply's status, not an exception.

        Raises:
          AnnotatorError: no request can be answered.
        """
        ...


def split_name(name: str) -> tuple[str, str]:
    """Returns (provider, model) of "provider/model".

    Raises:
      ValueError: the name is not of that form, or there is no such provider; says what was meant, where that is clear.
    """
    provider, _, model = name.strip().partition("/")
    if provider in PROVIDERS and model:
        return provider, model
    hint = ""
    close = difflib.get_close_matches(provider.lower(), PROVIDERS, 1, 0.75)
    if model and close:
        hint = f" Did you mean {close[0]}/{model}?"
    elif provider.lower().startswith("claude"):
        hint = f" Did you mean anthropic/{name}?"
    elif provider.lower().startswith(("gpt", "o1", "o3", "o4")):
        hint = f" Did you mean openai/{name}?"
    raise ValueError(
        f"No annotator {name!r}: write provider/model, with one of the providers {sorted(PROVIDERS)}, such as "
        f"anthropic/claude-haiku-4-5 or openai/gpt-4.1-mini.{hint}"
    )


def load(name: str, **options: Any) -> Annotator:
    """The annotator called "provider/model"; `options` are the provider's own.

    Raises:
      ValueError: the name is not of that form, or no such provider or model is known.
    """
    provider, model = split_name(name)
    return importlib.import_module(PROVIDERS[provider]).load(model, **options)
