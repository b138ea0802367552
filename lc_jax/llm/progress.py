"""The progress bar of annotation: rows, rate and time left, tokens and dollars so far."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from types import TracebackType
from typing import Any

from tqdm import tqdm

from lc_jax.llm import Annotator
from lc_jax.llm.cost import Meter
from lc_jax.types import Reply


class Progress:
    """A bar on a terminal, silent elsewhere. Counts what was paid for in this run: stored replies have no usage."""

    def __init__(self, annotator: Annotator, rows: Iterable[Any]) -> None:
        total = len(rows) if isinstance(rows, Sized) else None
        self.bar = tqdm(total=total, desc=annotator.name, unit="row", disable=None)
        self.meter: Meter | None = getattr(annotator, "meter", None)  # a session has one
        self.tokens = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def count(self, reply: Reply, finished: bool) -> None:
        """Adds a reply; `finished` if its row needs no other."""
        self.tokens += reply.usage.input_tokens + reply.usage.output_tokens
        money = f", ${self.meter.dollars:.2f}" if self.meter else ""
        self.bar.set_postfix_str(f"{self.tokens:,} tokens{money}", refresh=False)
        self.bar.update(int(finished))
