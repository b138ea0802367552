"""Lines of the log: a short prefix, colour on a terminal only."""

import io
import logging
import time

import pytest

from lc_jax import terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def record(level, text, *values):
    log_record = logging.LogRecord("absl", level, "loop.py", 1, text, values, None)
    log_record.created = 0.0
    return log_record


@pytest.fixture(autouse=True)
def in_utc(monkeypatch):
    monkeypatch.setattr(logging.Formatter, "converter", staticmethod(time.gmtime))
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_terminal_gets_colour_and_the_time_unless_NO_COLOR_is_set(monkeypatch):
    formatter = terminal.Formatter(Terminal())
    assert formatter.format(record(logging.INFO, "%d rows", 3)) == "\r\033[K\033[2m00:00:00 I\033[0m 3 rows"
    assert formatter.format(record(logging.WARNING, "few")) == "\r\033[K\033[33m00:00:00 W\033[0m few"
    assert formatter.format(record(logging.ERROR, "none")) == "\r\033[K\033[31m00:00:00 E\033[0m none"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.Formatter(Terminal()).format(record(logging.INFO, "x")) == "00:00:00 I x"


def test_a_file_gets_the_date_and_no_colour():
    assert terminal.Formatter(io.StringIO()).format(record(logging.INFO, "x")) == "1970-01-01 00:00:00 I x"


def test_a_table_has_no_prefix():
    formatter = terminal.Formatter(Terminal(), str.upper)
    assert formatter.format(record(logging.INFO, "made\nnext")).endswith("I\033[0m MADE\nNEXT")
    assert formatter.format(record(logging.INFO, "\n%s", "| a |\n|---|")) == "| A |\n|---|"
