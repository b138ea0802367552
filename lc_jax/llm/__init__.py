"""Language models that are asked in text: data generation and evaluation (paper sections 4.1, 4.2 and 5).

An annotator is `async ask(request) -> reply`. `load("provider/model")` returns one of a provider; `cached` and
`within_budget` wrap its `ask`, `map_ordered` asks about many items; session.py puts them together for a task.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from lc_jax.types import Reply, Request

# Imported by name on demand: a provider may need its SDK, or JAX, which asking an API must not.
PROVIDERS = {
    "anthropic": "lc_jax.llm.anthropic",
    "openai": "lc_jax.llm.openai",
    "local": "lc_jax.llm.local",
    "simulated": "lc_jax.llm.simulated",
    "rules": "lc_jax.llm.rules",
}


Ask = Callable[[Request], Awaitable[Reply]]


class AnnotatorError(ValueError):
    """An error that no retry corrects: a bad key, an unknown model, a spent budget. Earlier replies are stored."""


class Annotator(Protocol):
    """A provider's model that answers requests in text."""

    name: str  # "provider/model", as written into records
    concurrency: int  # how many items are to be under way at a time

    @property
    def ask(self) -> Ask:
        """Returns the reply to a request. A request that cannot be answered is a reply's status, not an exception.

        Raises:
          AnnotatorError: no request can be answered.
        """
        ...

    async def close(self) -> None:
        """Closes connections of the running event loop; `ask` opens new ones."""
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
    """Returns the annotator called "provider/model"; `options` are the provider's own.

    Raises:
      ValueError: the name is not of that form, or no such provider or model is known.
    """
    provider, model = split_name(name)
    return importlib.import_module(PROVIDERS[provider]).load(model, **options)
