"""Ctrl-C outside of training loops: it ends the process with code 130, whatever becomes of the exception.

A KeyboardInterrupt is lost where it is raised within a callback of a library, such as JAX's at garbage collections:
Python prints "Exception ignored in" and the run continues. Training loops have a handler of their own
(training/checkpoint.py), which calls this one at the second Ctrl-C.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

CODE = 130  # of a process that Ctrl-C ended
_INTERVAL = 0.5  # seconds between two looks at the main thread
_requests: list[int] = []  # signals of this process
_reports: list[int] = []  # non-empty: main has caught the exception and ends the process


def install() -> None:
    """Handles Ctrl-C, unless this process ignores it, as one in the background of a shell does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_signal)
        sys.excepthook = _on_uncaught


def is_requested() -> bool:
    """Returns whether Ctrl-C was pressed: an error from then on may be a library's form of the interruption."""
    return bool(_requests)


def report() -> None:
    """Says that the interruption arrived in main, which prints it and ends the process."""
    _reports.append(CODE)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, so that records and replies on their way are written; at the second signal, ends."""
    _requests.append(number)
    if len(_requests) > 1:
        _end()
    _thread.start_new_thread(_watch, ())  # unlike threading.Thread it takes no lock that the main thread may hold
    raise KeyboardInterrupt


def _watch() -> None:
    """Ends the process once the main thread, seen twice, neither unwinds from KeyboardInterrupt nor has reported it."""
    main, lost = threading.main_thread().ident or 0, 0
    while lost < 2:
        time.sleep(_INTERVAL)
        if _reports:
            return
        handled = sys._current_exceptions().get(main)
        error = handled[1] if isinstance(handled, tuple) else handled  # a triple up to Python 3.11
        lost = 0 if _is_interruption(error) else lost + 1
    _end()


def _is_interruption(error: BaseException | None) -> bool:
    """Returns whether an error is a KeyboardInterrupt or was raised while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _on_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """As `sys.excepthook`: Python itself would end by the signal, with a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        _end()
    sys.__excepthook__(kind, error, traceback)


def _end() -> None:
    """Ends the process at once; files are whole, as they are written atomically or row by row."""
    if not _reports:
        os.write(2, b"error: interrupted\n")
    with contextlib.suppress(Exception):  # a stream that the main thread is writing to
        sys.stdout.flush()
    os._exit(CODE)
