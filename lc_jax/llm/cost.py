"""What a run will cost, what it has cost, and the budget that it may not pass."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from lc_jax.llm import Annotator, AnnotatorError, capabilities
from lc_jax.llm.capabilities import PRICED, Capabilities, Price
from lc_jax.llm.store import Store, key
from lc_jax.text_table import table
from lc_jax.types import Reply, Request, Usage

BYTES_PER_TOKEN = 3.0  # of UTF-8; English needs about four, so that estimates are on the high side
OVERHEAD = 16  # tokens of a request around its prompt


class BudgetError(AnnotatorError):
    """The budget does not cover the next request. What was answered is stored; a larger budget goes on from there."""


def tokens(text: str) -> int:
    """An upper estimate for ordinary text."""
    return int(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN) + 1


def beginning(one: str, other: str) -> str:
    """What two texts have in common from their start."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if one[:middle] == other[:middle] else (least, middle - 1)
    return one[:least]


def most(request: Request, able: Capabilities) -> Usage:
    """The tokens that a request may be charged for: its prompt by the rule above, its reply at full length."""
    given = tokens(request.prompt) + (tokens(request.schema) if able.json_schema else 0) + OVERHEAD
    return Usage(given, request.max_tokens + able.hidden_tokens)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An upper estimate of what requests will cost. Replies rarely have their full length, so most runs cost less."""

    name: str  # of the annotator
    calls: int  # requests that will be sent
    stored: int  # requests that are not paid again: the store has their replies, or they repeat one of `calls`
    usage: Usage  # at most; cached_tokens = those of the prompts' common beginning, where a cache takes it
    price: Price | None  # None = unknown
    too_long: int = 0  # requests that may exceed the model's context

    def dollars(self, *, batch: bool = False, cache: bool = True) -> float | None:
        """At most; None where the price is unknown."""
        usage = self.usage if cache else dataclasses.replace(self.usage, cached_tokens=0)
        return self.price.of(usage, batch) if self.price else None


def estimate(
    name: str, requests: Iterable[Request], store: Store | None = None, price: Price | None = None
) -> Estimate:
    """What the annotator `name` will cost for `requests`, read one at a time; at its list price unless told another."""
    able = capabilities.of(name) or Capabilities()
    calls = stored = given = made = too_long = 0
    shared: str | None = None
    seen: set[str] = set()
    for request in requests:
        hashed = key(name, request)
        if hashed in seen or (store is not None and store.get(hashed)):
            stored += 1
            continue
        seen.add(hashed)
        usage = most(request, able)
        too_long += 0 < able.context < usage.input_tokens + usage.output_tokens
        calls, given, made = calls + 1, given + usage.input_tokens, made + usage.output_tokens
        shared = request.prompt if shared is None else beginning(shared, request.prompt)
    start = int(len((shared or "").encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)
    cached = start * (calls - 1) if able.cache_floor and start >= able.cache_floor else 0
    return Estimate(name, calls, stored, Usage(given, made, max(cached, 0)), price or able.price, too_long)


class Meter:
    """Counts what replies cost. Give one meter to everything that shares a budget."""

    def __init__(self, budget: float = float("inf")) -> None:
        self.budget = budget  # dollars
        self.dollars = 0.0  # spent in this run
        self.usage = Usage()
        self.statuses: collections.Counter[str] = collections.Counter()  # of the replies that were asked for
        self.reserved = 0.0  # dollars that requests under way may cost

    def count(self, reply: Reply, dollars: float) -> None:
        """Adds a reply that was paid for."""
        self.usage += reply.usage
        self.dollars += dollars
        self.statuses[reply.status] += 1

    @property
    def calls(self) -> int:
        """Replies that were asked for in this run."""
        return self.statuses.total()


class Metered:
    """An annotator that stops before it passes the meter's budget: every request under way is counted at its most.

    Raises:
      ValueError: there is a budget, but the model's price is unknown.
    """

    def __init__(self, annotator: Annotator, meter: Meter, *, price: Price | None, batch: bool = False) -> None:
        self.annotator, self.meter, self.name, self.batch = annotator, meter, annotator.name, batch
        if price is None and meter.budget != float("inf"):
            raise ValueError(
                f"No price of {self.name} is known, so no budget can be kept: give its price in dollars per million "
                "tokens of input, output and cached input, or no budget."
            )
        self.price = price or capabilities.FREE
        self.able = capabilities.of(self.name) or Capabilities(hidden_tokens=capabilities.HIDDEN)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies as they arrive; see lc_jax.llm.Annotator.

        Raises:
          BudgetError: the next request might pass the budget, even after all that were under way are paid.
        """
        fresh = enumerate(requests)
        waiting: collections.deque[tuple[int, Request]] = collections.deque()
        sent: dict[int, tuple[int, float]] = {}  # index of the inner annotator -> (ours, dollars reserved)

        def affordable() -> Iterator[Request]:
            for number in itertools.count():
                if not waiting:
                    waiting.extend([item] if (item := next(fresh, None)) else [])
                if not waiting:
                    return
                most_dollars = self.price.of(most(waiting[0][1], self.able), self.batch)
                if self.meter.dollars + self.meter.reserved + most_dollars > self.meter.budget:
                    return
                index, request = waiting.popleft()
                self.meter.reserved += most_dollars
                sent[number] = (index, most_dollars)
                yield request

        while True:
            before = self.meter.calls
            try:
                for number, reply in self.annotator.complete(affordable()):
                    index, reserved = sent.pop(number)
                    self.meter.reserved -= reserved
                    self.meter.count(reply, self.price.of(reply.usage, self.batch))
                    yield index, reply
            finally:
                self.meter.reserved -= sum(reserved for _, reserved in sent.values())
                sent.clear()
            if not waiting:
                return
            if self.meter.calls == before:
                left = self.meter.budget - self.meter.dollars
                raise BudgetError(
                    f"The next request to {self.name} may cost more than the ${left:.4f} that are left of the budget "
                    f"of ${self.meter.budget:.2f}. What was answered is stored: a larger budget goes on from there."
                )


def _money(dollars: float | None) -> str:
    return "unknown" if dollars is None else f"${dollars:,.4f}" if dollars < 1 else f"${dollars:,.2f}"


def render(rows: Sequence[tuple[str, Estimate, Meter | None]]) -> str:
    """A table with a line for each (label, estimate, meter of what it has cost; None before it ran)."""
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
    for label, guess, meter in rows:
        lines.append([
            label, guess.name, f"{guess.calls:,}", f"{guess.stored:,}", f"{guess.usage.input_tokens:,}",
            f"{guess.usage.output_tokens:,}", _money(guess.dollars()), _money(guess.dollars(batch=True)),
            _money(guess.dollars(cache=False)), _money(meter.dollars) if meter else "-",
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
