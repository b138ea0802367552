"""Checks before anything is loaded, compiled or paid for: all problems of a configuration are reported at once."""

from __future__ import annotations

from collections.abc import Callable


class Problems(ValueError):
    """What a user has to change before a run can start; `str()` has one line for each."""

    def __init__(self, messages: list[str]) -> None:
        self.messages = messages
        super().__init__("\n".join(messages))


def check_all(*checks: Callable[[], object]) -> None:
    """Calls every check, and reports what all of them raise together.

    Args:
      checks: functions that raise ValueError or OSError with a message that names setting or file, and the remedy.

    Raises:
      Problems: at least one check failed.
    """
    messages: list[str] = []
    for check in checks:
        try:
            check()
        except Problems as error:
            messages += error.messages
        except (OSError, ValueError) as error:
            messages.append(str(error))
    if messages:
        raise Problems(list(dict.fromkeys(messages)))
