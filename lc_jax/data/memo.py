"""Reuses what a run reads both for its check and for its work: a file is read, and warned about, once."""

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
    """Within this context a function under `memoise` is computed once for the same arguments."""
    global _results  # one run a process: the tasks' signatures need not carry what their checks read
    before, _results = _results, {}
    try:
        yield
    finally:
        _results = before


def memoise(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Returns `function` with its results reused within `reuse`; those who share a result must not change it.

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
