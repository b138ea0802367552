"""An annotator as tasks use it: replies are read from a store, what is missing is paid for within a budget.

with session.open_annotator("anthropic/claude-haiku-4-5", store="replies.sqlite", budget=20.0) as annotator:
    reply = annotator.run(annotator.ask(request))
    print(annotator.meter.dollars)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from lc_jax import llm
from lc_jax.llm import capabilities, concurrency
from lc_jax.llm.anthropic import Anthropic
from lc_jax.llm.batch import Batched
from lc_jax.llm.cached import cached
from lc_jax.llm.capabilities import FREE, Price
from lc_jax.llm.checks import check_annotator, check_budget
from lc_jax.llm.cost import Meter, within_budget
from lc_jax.llm.openai import OpenAI
from lc_jax.llm.store import Store
from lc_jax.types import Usage

Item = TypeVar("Item")
Result = TypeVar("Result")


def store_path(settings: Mapping[str, Any], folder: str | Path) -> Path:
    """Returns the file of replies: `store` of a task's settings or, where that is "", replies.sqlite in `folder`."""
    return Path(settings["store"] or Path(folder) / "replies.sqlite")


def open_configured(
    settings: Mapping[str, Any], store: str | Path, *, budget: float = 0.0, dry_run: bool = False
) -> Session:
    """Returns the annotator that a config names.

    Args:
      settings: name, base_url, batch, concurrency, price; what is empty is left to the provider.
      store: file of replies.
      budget: dollars that this run may spend; 0 = no limit.
      dry_run: nothing will be asked, so that no store is made and no batch endpoint needed.

    Raises:
      ValueError: no name; or see `open_annotator`.
    """
    check_annotator(settings, keyless=dry_run)
    check_budget(settings, budget)
    options = _without_empty(settings)
    if dry_run:
        options.pop("batch", None)  # the table of costs has a column for it
        store = store if Path(store).exists() else ""
    return open_annotator(**options, store=store, budget=budget or float("inf"))


def open_annotator(
    name: str,
    *,
    store: str | Path = "",
    budget: float = float("inf"),
    price: Sequence[float] = (),
    batch: bool = False,
    **options: Any,
) -> Session:
    """Returns the annotator "provider/model" with a store, a meter and, if asked for, the provider's batch endpoint.

    Args:
      store: file of replies; "" keeps none.
      budget: dollars that this run may spend.
      price: dollars per million tokens of input, output and cached input; () = the list price.
      batch: half the price, within a day; needs a store.
      options: the provider's own.

    Raises:
      ValueError: no such annotator; no known price for a budget; no batch endpoint.
    """
    replies = Store(store) if store else None
    return _session(replies, Meter(budget), name, price=price, batch=batch, **options)


def _session(
    store: Store | None, meter: Meter, name: str, *, price: Sequence[float] = (), batch: bool = False, **options: Any
) -> Session:
    """Returns a session of the annotator `name`; the arguments are those of `open_annotator`."""
    annotator = llm.load(name, **options)
    able = capabilities.of(name)
    listed = Price(*price) if price else able.price if able else None
    if isinstance(annotator, OpenAI):
        annotator.notes = store
    if not batch:
        return Session(annotator, store, meter, listed)
    if store is None or not isinstance(annotator, (Anthropic, OpenAI)):
        raise ValueError(f"{name}: batch jobs need a store, and a provider that has them (anthropic, openai).")
    return Session(Batched(annotator, store), store, meter, listed, batch=True)


def _without_empty(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value}


class Session:
    """One annotator with a store and a meter, which other sessions may share."""

    def __init__(
        self,
        annotator: llm.Annotator,
        store: Store | None = None,
        meter: Meter | None = None,
        price: Price | None = None,
        *,
        batch: bool = False,
    ) -> None:
        self.annotator, self.name, self.price, self.batch = annotator, annotator.name, price, batch
        self.store, self.meter = store, meter or Meter()
        self.annotators = [annotator]  # of this session and of those that share its store
        # A request is looked up in the store; then the budget is checked; then the provider is asked.
        self.ask = within_budget(annotator.ask, self.name, self.meter, price, batch=batch)
        # Rules are free, and a stored reply would outlive a change of the rules.
        if store is not None and not self.name.startswith("rules/"):
            self.ask = cached(self.ask, self.name, store)

    def dollars(self, usage: Usage) -> float:
        """Returns what tokens cost; 0 where the price is unknown."""
        return (self.price or FREE).of(usage, self.batch)

    def with_annotator(self, settings: Mapping[str, Any], part: str, dry_run: bool = False) -> Session:
        """Returns another annotator with the same store and budget; not to be entered.

        Args:
          settings: as in `open_configured`.
          part: their place in the config, for messages.
        """
        check_annotator(settings, part, keyless=dry_run)
        options = _without_empty(settings)
        if dry_run:
            options.pop("batch", None)  # as in `open_configured`
        other = _session(self.store, self.meter, options.pop("name"), **options)
        self.annotators.append(other.annotator)
        other.annotators = self.annotators
        return other

    def with_roles(self, annotators: Mapping[str, Mapping[str, Any]], dry_run: bool = False) -> dict[str, Session]:
        """Returns by role the annotators that have a name in `annotators` (settings by role)."""
        return {
            role: self.with_annotator(settings, f"annotators.{role}", dry_run)
            for role, settings in annotators.items()
            if settings["name"]
        }

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Returns the result of `work`, run in a new event loop, at whose end all connections are closed."""

        async def run_and_close() -> Result:
            try:
                return await work
            finally:
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                for annotator in self.annotators:
                    await annotator.close()

        return concurrency.run(run_and_close())

    async def map(
        self, f: Callable[[Item], Coroutine[Any, Any, Result]], items: Iterable[Item], unit: str = "item"
    ) -> AsyncGenerator[Result]:
        """Yields f(item) for every item, in order and with as many under way as the annotators take; shows progress."""
        total = len(items) if isinstance(items, Sized) else None
        most = max(annotator.concurrency for annotator in self.annotators)
        with tqdm(total=total, desc=self.name, unit=unit, disable=None) as bar:
            async for result in concurrency.map_ordered(f, items, most):
                bar.set_postfix_str(progress(self.meter), refresh=False)
                bar.update()
                yield result

    def map_all(
        self, f: Callable[[Item], Coroutine[Any, Any, Result]], items: Iterable[Item], unit: str = "item"
    ) -> list[Result]:
        """Returns the results of `map`, which runs in an event loop of its own."""

        async def collect() -> list[Result]:
            return [result async for result in self.map(f, items, unit)]

        return self.run(collect())

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self.store is not None:
            self.store.close()


def progress(meter: Meter) -> str:
    """Returns what was paid for in this run, for a progress bar: stored replies have no usage."""
    return f"{meter.usage.input_tokens + meter.usage.output_tokens:,} tokens, ${meter.dollars:.2f}"
