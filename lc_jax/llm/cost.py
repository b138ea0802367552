"""Estimated and actual cost of a run, and its budget."""

from __future__ import annotations

import asyncio
import collections
import dataclasses

from lc_jax.llm import AnnotatorError, Ask, capabilities
from lc_jax.llm.capabilities import PRICED, Capabilities, Price
from lc_jax.llm.store import Store, key
from lc_jax.text_table import table
from lc_jax.types import Reply, Request, Usage

BYTES_PER_TOKEN = 3.0  # of UTF-8; English needs about four, so that estimates are on the high side
OVERHEAD = 16  # tokens of a request around its prompt


class BudgetError(AnnotatorError):
    """The budget does not cover the next request. Replies so far are stored; a larger budget resumes there."""


def tokens(text: str) -> int:
    """Returns an upper estimate for ordinary text."""
    return int(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN) + 1


def shared_prefix(one: str, other: str) -> str:
    """Returns the longest prefix of both texts."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if one[:middle] == other[:middle] else (least, middle - 1)
    return one[:least]


def max_usage(request: Request, able: Capabilities) -> Usage:
    """Returns the most tokens that a request may be charged for: of its prompt, and of a reply at full length."""
    prompt = tokens(request.prompt) + (tokens(request.schema) if able.json_schema else 0) + OVERHEAD
    return Usage(prompt, request.max_tokens + able.hidden_tokens)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An upper estimate of what requests will cost. Replies rarely have their full length, so most runs cost less."""

    name: str  # of the annotator
    calls: int  # requests that will be sent
    num_stored: int  # requests that are not paid again: the store has their replies, or they repeat one of `calls`
    usage: Usage  # at most; cached_tokens = those of the prompts' shared prefix, where a cache takes it
    price: Price | None  # None = unknown
    too_long: int = 0  # requests that may exceed the model's context

    def dollars(self, *, batch: bool = False, cache: bool = True) -> float | None:
        """Returns the most that the requests cost; None where the price is unknown."""
        usage = self.usage if cache else dataclasses.replace(self.usage, cached_tokens=0)
        return self.price.of(usage, batch) if self.price else None


class TaskCost:
    """Estimates what requests will cost, added one at a time, and sums what they have cost."""

    def __init__(self, name: str, store: Store | None = None, price: Price | None = None) -> None:
        """Args:
        name: of the annotator.
        store: whose replies are not paid for again.
        price: None = the list price.
        """
        self.dollars = 0.0  # paid so far
        self._name, self._store, self._able = name, store, capabilities.of(name) or Capabilities()
        self._price = price or self._able.price
        self._usage, self._num_stored, self._num_too_long = Usage(), 0, 0
        self._prefix: str | None = None  # shared by all prompts
        self._keys: set[str] = set()

    def add(self, request: Request) -> None:
        """Adds a request to the estimate."""
        hashed = key(self._name, request)
        if hashed in self._keys or (self._store is not None and self._store.get(hashed)):
            self._num_stored += 1
            return
        self._keys.add(hashed)
        usage = max_usage(request, self._able)
        self._usage += usage
        self._num_too_long += 0 < self._able.context < usage.input_tokens + usage.output_tokens
        self._prefix = request.prompt if self._prefix is None else shared_prefix(self._prefix, request.prompt)

    def estimate(self) -> Estimate:
        """Returns the estimate of the requests added so far."""
        calls, floor = len(self._keys), self._able.cache_floor
        prefix = int(len((self._prefix or "").encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)
        cached = prefix * (calls - 1) if calls and floor and prefix >= floor else 0
        usage = dataclasses.replace(self._usage, cached_tokens=cached)
        return Estimate(self._name, calls, self._num_stored, usage, self._price, self._num_too_long)


class Meter:
    """Counts what replies cost. Give one meter to everything that shares a budget."""

    def __init__(self, budget: float = float("inf")) -> None:
        self.budget = budget  # dollars
        self.dollars = 0.0  # spent in this run
        self.usage = Usage()
        self.statuses: collections.Counter[str] = collections.Counter()  # of the replies that were requested
        self.reserved = 0.0  # dollars that requests under way may cost
        self.num_under_way = 0
        self.is_exhausted = False  # a request was refused: no other one is sent
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def calls(self) -> int:
        """Replies that were requested in this run."""
        return self.statuses.total()

    async def reserve(self, dollars: float, name: str) -> None:
        """Waits until the budget covers a request to the annotator `name` that costs at most `dollars`.

        Raises:
          BudgetError: the request might pass the budget, even after all that were under way are paid.
        """
        while self.dollars + self.reserved + dollars > self.budget or self.is_exhausted:
            if self.is_exhausted or not self.num_under_way:
                self.is_exhausted = True
                rest = self.budget - self.dollars
                raise BudgetError(
                    f"The next request to {name} may cost more than the ${rest:.4f} that are left of the budget of "
                    f"${self.budget:.2f}. Replies so far are stored: a run with a larger budget resumes there."
                )
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]
        self.reserved += dollars
        self.num_under_way += 1

    def release(self, dollars: float) -> None:
        """Ends a reservation."""
        self.num_under_way -= 1
        self.reserved = self.reserved - dollars if self.num_under_way else 0.0
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def count(self, reply: Reply, dollars: float) -> None:
        """Adds a reply that was paid for."""
        self.usage += reply.usage
        self.dollars += dollars
        self.statuses[reply.status] += 1


def within_budget(ask: Ask, name: str, meter: Meter, price: Price | None, *, batch: bool = False) -> Ask:
    """Returns an `ask` that stops before it passes the meter's budget: requests under way count at their most.

    Args:
      name: of the annotator.
      batch: whether requests are charged at the price of the batch endpoint.

    Raises:
      ValueError: there is a budget, but the model's price is unknown.
    """
    if price is None and meter.budget != float("inf"):
        raise ValueError(
            f"No price of {name} is known, so no budget can be kept: give its price in dollars per million tokens of "
            "input, output and cached input, or no budget."
        )
    rate, able = price or capabilities.FREE, capabilities.of(name) or Capabilities(hidden_tokens=capabilities.HIDDEN)

    async def ask_within_budget(request: Request) -> Reply:
        dollars = rate.of(max_usage(request, able), batch)
        await meter.reserve(dollars, name)
        try:
            reply = await ask(request)
            meter.count(reply, rate.of(reply.usage, batch))
        finally:
            meter.release(dollars)
        return reply

    return ask_within_budget


def _money(dollars: float | None) -> str:
    return "unknown" if dollars is None else f"${dollars:,.4f}" if dollars < 1 else f"${dollars:,.2f}"


Costs = list[tuple[str, Estimate, float | None]]  # (label, estimate, dollars that it has cost; None before it ran)


def render(rows: Costs) -> str:
    """Returns a table with a line for each row."""
    titles = [
        "",
        "annotator",
        "calls",
        "in store",
        "input tokens",
        "output tokens",
        "at most",
        "batch",
        "no cache",
        "real",
    ]
    lines = [titles]
    for label, guess, real in rows:
        lines.append([
            label, guess.name, f"{guess.calls:,}", f"{guess.num_stored:,}", f"{guess.usage.input_tokens:,}",
            f"{guess.usage.output_tokens:,}", _money(guess.dollars()), _money(guess.dollars(batch=True)),
            _money(guess.dollars(cache=False)), "-" if real is None else _money(real),
        ])  # fmt: skip
    text = table(lines, align="r")
    too_long = sum(guess.too_long for _, guess, _ in rows)
    if too_long:
        text += f"\n{too_long} requests may be longer than the model's context: they would fail."
    notes = [
        "In store: replies that the store already holds, or that repeat another request of this run: not paid again.",
        f"Tokens: one for {BYTES_PER_TOKEN:g} bytes of prompt; replies at full length. Prices of {PRICED}.",
    ]
    return "\n".join([text, *notes])
