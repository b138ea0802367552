"""Log lines of a run: one an event, with the time and a letter for the level, in colour on a terminal; closed pipes."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

_GREY, _YELLOW, _RED, _PLAIN = "\033[2m", "\033[33m", "\033[31m", "\033[0m"
_CLEAR = "\r\033[K"  # removes a progress bar from the line; it draws itself again below
_DOCUMENTED = (
    (re.compile(r"python -m lc_jax\.main"), "lc_jax"),
    (re.compile(r"--config=(?:configs/(\w+)\.py|(?=\S+\.py))"), r"\1"),
    (re.compile(r"--config=FILE"), "NAME"),
    (re.compile(r"--config\."), "--"),
)


def as_command(text: str) -> str:
    """Rewrites commands in a text for `lc_jax`: `--config=configs/ppo.py --config.seed=1` becomes `ppo --seed=1`."""
    for pattern, replacement in _DOCUMENTED:
        text = pattern.sub(replacement, text)
    return text


def has_colour(stream: TextIO) -> bool:
    """Returns whether to write in colour: the stream is a terminal, and the variable NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def output_is_closed() -> bool:
    """Returns whether the reader of the output has closed it, as after `| head`; silences the output if so."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False  # the pipe that broke is another one
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no second error when Python ends
    return True


@contextlib.contextmanager
def quiet_when_closed() -> Iterator[None]:
    """Ends the process with code 1 and no message where the reader of the output has closed it, as after `| head`."""
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # a short output is only written here, or else when Python ends
    except BrokenPipeError:
        if not output_is_closed():
            raise
        sys.exit(1)


class Formatter(logging.Formatter):
    """Formats log records as "13:16:06 I text", with the date in a file or pipe.

    A text that begins with a new line is a table: it is printed without the prefix.

    Args:
      stream: where the lines go.
      wording: rewrites each text, as `as_command`.
    """

    def __init__(self, stream: TextIO = sys.stderr, wording: Callable[[str], str] = str) -> None:
        super().__init__("%(message)s", "%H:%M:%S" if stream.isatty() else "%Y-%m-%d %H:%M:%S")
        self._colour, self._wording = has_colour(stream), wording

    def format(self, record: logging.LogRecord) -> str:
        """Returns the lines of a record."""
        text = self._wording(super().format(record))
        if text.startswith("\n"):
            return text[1:]
        prefix = f"{self.formatTime(record, self.datefmt)} {record.levelname[0]}"
        if self._colour:
            shade = _RED if record.levelno >= logging.ERROR else _YELLOW if record.levelno >= logging.WARNING else _GREY
            prefix = f"{_CLEAR}{shade}{prefix}{_PLAIN}"
        return f"{prefix} {text}"
