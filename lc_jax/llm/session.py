"""An annotator as tasks use it: replies are read from a store, what is missing is paid for within a budget.

with session.open_annotator("anthropic/claude-haiku-4-5", store="replies.sqlite", budget=20.0) as annotator:
    rows = annotate(annotator, ...)
    print(annotator.meter.dollars)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lc_jax import llm
from lc_jax.llm import capabilities
from lc_jax.llm.anthropic import Anthropic
from lc_jax.llm.batch import Batched
from lc_jax.llm.cached import Stored
from lc_jax.llm.capabilities import Price
from lc_jax.llm.checks import check_annotator, check_budget
from lc_jax.llm.cost import Estimate, Meter, Metered, estimate
from lc_jax.llm.openai import OpenAI
from lc_jax.llm.store import Store
from lc_jax.types import Reply, Request


class Session:
    """An Annotator with its store and its meter; closes the store when it is left."""

    def __init__(self, annotator: llm.Annotator, store: Store | None, meter: Meter, price: Price | None) -> None:
        self.annotator, self.store, self.meter, self.price = annotator, store, meter, price
        self.name = annotator.name

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies as they arrive; see lc_jax.llm.Annotator."""
        return self.annotator.complete(requests)

    def estimate(self, requests: Iterable[Request]) -> Estimate:
        """What `requests` will cost at most; nothing is sent."""
        return estimate(self.name, requests, self.store, self.price)

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
        return _session(self.store, self.meter, options.pop("name"), **options)

    def with_roles(self, annotators: Mapping[str, Mapping[str, Any]], dry_run: bool = False) -> dict[str, Session]:
        """Returns by role the annotators that have a name in `annotators` (settings by role)."""
        return {
            role: self.with_annotator(settings, f"annotators.{role}", dry_run)
            for role, settings in annotators.items()
            if settings["name"]
        }

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self.store is not None:
            self.store.close()


def open_annotator(
    name: str,
    *,
    store: str | Path = "",
    budget: float = float("inf"),
    price: Sequence[float] = (),
    batch: bool = False,
    **options: Any,
) -> Session:
    """The annotator "provider/model" with a store, a meter and, if asked for, the vendor's batch endpoint.

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


def open_configured(
    settings: Mapping[str, Any], store: str | Path, *, budget: float = 0.0, dry_run: bool = False
) -> Session:
    """The annotator that a config names.

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


def _without_empty(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value}


def _session(
    store: Store | None, meter: Meter, name: str, *, price: Sequence[float] = (), batch: bool = False, **options: Any
) -> Session:
    annotator = llm.load(name, **options)
    able = capabilities.of(name)
    listed = Price(*price) if price else able.price if able else None
    if isinstance(annotator, OpenAI):
        annotator.notes = store
    if batch:
        if store is None or not isinstance(annotator, (Anthropic, OpenAI)):
            raise ValueError(f"{name}: batch jobs need a store, and a provider that has them (anthropic, openai).")
        annotator = Batched(annotator, store)
    metered = Metered(annotator, meter, price=listed, batch=batch)
    return Session(Stored(metered, store) if store else metered, store, meter, listed)
