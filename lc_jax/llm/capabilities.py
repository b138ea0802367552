"""Capabilities and prices of model families. Prices are list prices, as read on PRICED.

What is known here is never asked of a server. A model that is not here is asked once, and the answer is remembered.
"""

from __future__ import annotations

import dataclasses

from lc_jax.types import Usage

PRICED = "2026-11-06"  # when the prices below were read
MILLION = 1e6


@dataclasses.dataclass(frozen=True)
class Price:
    """Prices, dollars per million tokens."""

    input: float
    output: float
    cached: float  # of a prompt's tokens that the provider's cache holds
    batch: float = 0.5  # what the batch endpoint charges, as a share of the above

    def of(self, usage: Usage, batched: bool = False) -> float:
        """Returns the price of tokens in dollars."""
        fresh = usage.input_tokens - usage.cached_tokens
        total = fresh * self.input + usage.cached_tokens * self.cached + usage.output_tokens * self.output
        return total / MILLION * (self.batch if batched else 1.0)


FREE = Price(0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """Settings that a model takes. The defaults are those of every model."""

    sampling: bool = False  # temperature and top_p; a model without them draws at its own temperature
    json_schema: bool = False  # replies can be held to a schema
    batch: bool = False  # has a batch endpoint
    reasoning: str = ""  # the setting under which the model reasons least before it writes; "": send none
    hidden_tokens: int = 0  # room for reasoning that cannot be switched off, on top of a request's max_tokens
    context: int = 0  # tokens of prompt and reply together; 0 = unknown
    cache_floor: int = 0  # tokens of a common beginning that the provider caches by itself from; 0 = it does not
    price: Price | None = None  # None = unknown


HIDDEN = 4096
_CLAUDE = Capabilities(json_schema=True, batch=True, context=1_000_000)
_GPT = Capabilities(json_schema=True, batch=True, context=272_000, cache_floor=1024)


def _claude(input: float, output: float, cached: float, *, sampling: bool = False) -> Capabilities:
    context = 200_000 if sampling else _CLAUDE.context
    return dataclasses.replace(_CLAUDE, sampling=sampling, context=context, price=Price(input, output, cached))


def _gpt(input: float, output: float, cached: float, reasoning: str, sampling: bool = False) -> Capabilities:
    hidden = HIDDEN if reasoning in ("low", "minimal") else 0
    price = Price(input, output, cached)
    return dataclasses.replace(_GPT, sampling=sampling, reasoning=reasoning, hidden_tokens=hidden, price=price)


# By the beginning of the name; the longest that fits counts. How Claude models are kept from reasoning is not here: the
# provider says it with the model's record, at no cost.
TABLE = {
    "anthropic/claude-fable-5": _claude(10, 50, 1.0),
    "anthropic/claude-fable-5-1": _claude(10, 50, 0.25),
    "anthropic/claude-opus-5-5": _claude(4, 20, 0.20),
    "anthropic/claude-opus-5": _claude(5, 25, 0.50),
    "anthropic/claude-opus-4-8": _claude(5, 25, 0.50),
    "anthropic/claude-opus-4-7": _claude(5, 25, 0.50),
    "anthropic/claude-opus-4-6": _claude(5, 25, 0.50, sampling=True),
    "anthropic/claude-opus-4-5": _claude(5, 25, 0.50, sampling=True),
    "anthropic/claude-sonnet-5-5": _claude(2, 10, 0.10),
    "anthropic/claude-sonnet-5": _claude(2, 10, 0.20),
    "anthropic/claude-sonnet-4-6": _claude(3, 15, 0.30, sampling=True),
    "anthropic/claude-sonnet-4-5": _claude(3, 15, 0.30, sampling=True),
    "anthropic/claude-haiku-5-5": _claude(0.10, 0.50, 0.01),  # prompts up to 100,000 tokens
    "anthropic/claude-haiku-4-5": _claude(1, 5, 0.10, sampling=True),
    # Of these, input is at the price of writing it into the cache, so that a budget holds.
    "openai/gpt-6-astra": _gpt(12.50, 50, 1.0, "low"),
    "openai/gpt-6-sol": _gpt(2.50, 10, 0.20, "low"),
    "openai/gpt-6-luna": _gpt(0.125, 0.50, 0.01, "low"),
    "openai/gpt-6.1-terra": _gpt(1.25, 5, 0.05, "low"),
    "openai/gpt-5.6-sol": _gpt(4, 20, 0.40, "none"),
    "openai/gpt-5.6-terra": _gpt(2, 12, 0.20, "none"),
    "openai/gpt-5.6-luna": _gpt(0.20, 1.20, 0.02, "none"),
    "openai/gpt-5.4": _gpt(2.50, 15, 0.25, "none", sampling=True),
    "openai/gpt-5.4-mini": _gpt(0.75, 4.50, 0.075, "none", sampling=True),
    "openai/gpt-5.2": _gpt(1.75, 14, 0.175, "none", sampling=True),
    "openai/gpt-5": _gpt(1.25, 10, 0.125, "minimal"),
    "openai/gpt-5-mini": _gpt(0.25, 2, 0.025, "minimal"),
    "openai/gpt-4.1": _gpt(2, 8, 0.50, "", sampling=True),
    "openai/gpt-4.1-mini": _gpt(0.40, 1.60, 0.10, "", sampling=True),
    "openai/gpt-4.1-nano": _gpt(0.10, 0.40, 0.025, "", sampling=True),
    "simulated/": Capabilities(sampling=True, price=FREE),
    "rules/": Capabilities(sampling=True, price=FREE),
    "local/": Capabilities(sampling=True, price=FREE),
}


def of(name: str) -> Capabilities | None:
    """Returns the capabilities of "provider/model", with or without a date after the name; None if unknown."""
    fits = [key for key in TABLE if name == key or (name.startswith(key) and _goes_on(key, name))]
    return TABLE[max(fits, key=len)] if fits else None


def _goes_on(key: str, name: str) -> bool:
    """Returns whether `name` is `key` and a date or "latest": "gpt-5-mini" is another model than "gpt-5"."""
    rest = name[len(key) :]
    return key.endswith("/") or rest == "-latest" or (rest.startswith("-20") and rest[1:].replace("-", "").isdigit())
