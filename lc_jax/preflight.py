"""Checks of a configuration before anything is loaded, compiled or paid for; all problems are reported at once."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


class Problems(ValueError):
    """Problems that a user has to solve before a run can start; `str()` has one line for each.

    Args:
      missing: the messages about files or folders that do not exist.
    """

    def __init__(self, messages: list[str], missing: Iterable[str] = ()) -> None:
        self.messages, self.missing = messages, frozenset(missing)
        super().__init__("\n".join(messages))


class NothingJudged(ValueError):
    """Raised for an evaluation in which no answer could be judged, so that its row has no number.

    The process ends with the exit code CODE, by which a script tells this from a fault.
    """

    CODE = 3


def check_all(*checks: Callable[[], Any]) -> list[Any]:
    """Calls every check and raises all their errors together; returns their results in order.

    Args:
      checks: functions that raise ValueError or OSError with a message that names setting or file, and the remedy.

    Raises:
      Problems: at least one check failed.
    """
    messages: list[str] = []
    missing: set[str] = set()
    results: list[Any] = []
    for check in checks:
        try:
            results.append(check())
        except Problems as error:
            messages += error.messages
            missing |= error.missing
        except (OSError, ValueError) as error:
            messages.append(str(error))
            if isinstance(error, FileNotFoundError):
                missing.add(str(error))
    if messages:
        raise Problems(list(dict.fromkeys(messages)), missing)
    return results


@dataclasses.dataclass(frozen=True)
class Range:
    """Range of numbers for a setting."""

    low: float = -math.inf
    high: float = math.inf
    integer: bool = False  # integers only
    above: float = -math.inf  # as `low`, but this number itself is refused
    below: float = math.inf  # as `high`, but this number itself is refused

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.integer else int | float):
            return False
        return self.low <= value <= self.high and self.above < value < self.below and math.isfinite(value)

    def __str__(self) -> str:
        ends = {"of at least": self.low, "above": self.above, "of at most": self.high, "below": self.below}
        bounds = [f"{word} {end:g}" for word, end in ends.items() if math.isfinite(end)]
        return " ".join(["a whole number" if self.integer else "a number", " and ".join(bounds)]).strip()


POSITIVE_INT, NATURAL = Range(1, integer=True), Range(0, integer=True)
POSITIVE, NON_NEGATIVE, PROBABILITY = Range(above=0), Range(0), Range(0, 1)


def check_settings(part: str, settings: object, **allowed: Range | tuple[str, ...]) -> None:
    """Checks the values of fields of `settings`, an object or a mapping.

    Args:
      part: prefix of the fields' flags ("fit"; "" at the top level), for the message.
      allowed: field -> its range, or its allowed names.

    Raises:
      Problems: one line for each wrong field, with its flag and the allowed values.
    """
    messages = []
    for name, values in allowed.items():
        value = settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
        if value not in values:
            choice = (
                str(values)
                if isinstance(values, Range)
                else f"one of {', '.join(name or repr(name) for name in values)}"
            )
            messages.append(f"--config.{f'{part}.' if part else ''}{name}={value}: give {choice}.")
    if messages:
        raise Problems(messages)


def check_sampling(settings: object) -> None:
    """Checks the settings of sampling: temperature, top_p, max_new_tokens, batch_size.

    Raises:
      Problems: one line for each field that is wrong.
    """
    check_settings(
        "", settings, temperature=NON_NEGATIVE, top_p=Range(above=0, high=1), max_new_tokens=POSITIVE_INT,
        batch_size=POSITIVE_INT,
    )  # fmt: skip


def divisors(total: int, near: int) -> str:
    """Returns the divisors of `total` around `near` as text for a message."""
    below = max(n for n in range(1, total + 1) if total % n == 0 and (n <= near or n == 1))
    above = min(n for n in range(1, total + 1) if total % n == 0 and (n >= near or n == total))
    return " or ".join(map(str, dict.fromkeys([below, above])))


def check_output(path: str | Path, flag: str = "--config.output") -> None:
    """Checks that a folder can be created or written at `path`, without creating it.

    Raises:
      ValueError: `path` or a folder above it is a file, or may not be written.
    """
    path = Path(path)
    folder = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not folder.is_dir():
        raise ValueError(f"{flag}={path}: {folder} is a file; name a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{flag}={path}: {folder} may not be written; name another folder.")
