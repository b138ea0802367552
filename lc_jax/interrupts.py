"""Ctrl-C outside of training loops: ends the process with code 130, even if the exception is swallowed.

A KeyboardInterrupt is swallowed if it is raised in a callback of a library, such as JAX's at garbage collections:
Python prints "Exception ignored in" and the run continues. Training loops have their own handler
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

CODE = 130  # exit code after Ctrl-C
_INTERVAL = 0.5  # seconds between two checks of the main thread
_requests: list[int] = []  # signals received
_reports: list[int] = []  # non-empty: main has caught the exception and ends the process


def install() -> None:
    """Installs the handler of Ctrl-C, unless this process ignores it, as background jobs of a shell do."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_signal)
        sys.excepthook = _on_uncaught


def is_requested() -> bool:
    """Returns whether Ctrl-C was pressed; a later error may be a library's way to report it."""
    return bool(_requests)


def report() -> None:
    """Records that main has caught the interruption, so that it will print it and end the process."""
    _reports.append(CODE)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, so that pending records are written; ends the process at the second signal."""
    _requests.append(number)
    if len(_requests) > 1:
        _end()
    _thread.start_new_thread(_watch, ())  # unlike threading.Thread it takes no lock that the main thread may hold
    raise KeyboardInterrupt


def _watch() -> None:
    """Ends the process if at two checks in a row the main thread neither handles nor has reported the interruption."""
    main, num_unhandled = threading.main_thread().ident or 0, 0
    while num_unhandled < 2:
        time.sleep(_INTERVAL)
        if _reports:
            return
        exception = sys._current_exceptions().get(main)
        error = exception[1] if isinstance(exception, tuple) else exception  # a triple up to Python 3.11
        num_unhandled = 0 if _is_interruption(error) else num_unhandled + 1
    _end()


def _is_interruption(error: BaseException | None) -> bool:
    """Returns whether an error is a KeyboardInterrupt or was raised while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _on_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Ends the process without the traceback and signal of Python's own `sys.excepthook`."""
    if issubclass(kind, KeyboardInterrupt):
        _end()
    sys.__excepthook__(kind, error, traceback)


def _end() -> None:
    """Ends the process at once; files stay valid, as they are written atomically or row by row."""
    if not _reports:
        os.write(2, b"error: interrupted\n")
    with contextlib.suppress(Exception):  # a stream that the main thread is writing to
        sys.stdout.flush()
    os._exit(CODE)
