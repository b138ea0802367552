"""Memoisation within one run: a file that both the check and the task read is read, and warned about, once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

Params = ParamSpec("Params")
Result = TypeVar("Result")

_results: dict[tuple[str, str], Any] | None = None  # None outside `reuse`


@contextlib.contextmanager
def reuse() -> Iterator[None]:
    """Reuses results of functions under `memoise` within this context."""
    global _results  # one run a process: the tasks' signatures need not carry what their checks read
    before, _results = _results, {}
    try:
        yield
    finally:
        _results = before


def memoise(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Decorates a function so that `reuse` reuses its results; callers must not change a result.

    Arguments are compared by their `repr`. Errors are raised again, not stored.
    """
    name = f"{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        if _results is None:
            return function(*args, **kwargs)
        key = name, repr((args, sorted(kwargs.items())))
        if key not in _results:
            _results[key] = function(*args, **kwargs)
        return _results[key]

    return call
