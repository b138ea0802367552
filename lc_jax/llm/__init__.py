"""Language models that are asked in text: data generation and evaluation (paper sections 4.1, 4.2 and 5).

`load("provider/model")` gives an Annotator; `annotate` renders, asks, parses and asks again.
"""

from __future__ import annotations

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


def load(name: str, **options: Any) -> Annotator:
    """The annotator called "provider/model"; `options` are the provider's own.

    Raises:
      ValueError: the name is not of that form, or no such provider or model is known.
    """
    provider, _, model = name.partition("/")
    if provider not in PROVIDERS or not model:
        raise ValueError(f"No annotator {name!r}: write provider/model, with one of the providers {sorted(PROVIDERS)}.")
    return importlib.import_module(PROVIDERS[provider]).load(model, **options)
