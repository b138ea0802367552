"""Ctrl-C ends a process with code 130, also where a library swallows the exception."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A shell's background jobs ignore Ctrl-C, and the tests may be one.
HANDLED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
INSTALLED = f"""
{HANDLED}
import gc, sys, time
from lc_jax import interrupts
interrupts.install()
press = lambda *_: signal.raise_signal(signal.SIGINT)
"""
MAIN = f"""
{HANDLED}
import runpy
print("ready", flush=True)
runpy.run_module("lc_jax.main", run_name="__main__", alter_sys=True)
"""


def run(body):
    return subprocess.run(
        [sys.executable, "-c", INSTALLED + body], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "body",
    [
        "gc.callbacks.append(lambda *_: gc.callbacks.clear() or press())\ngc.collect()\ntime.sleep(50)",
        "try:\n    press()\nexcept BaseException:\n    pass\ntime.sleep(50)",
        "press()",
        "try:\n    press()\nfinally:\n    press()",  # the second time at once, whatever is in the way
    ],
)
def test_an_interruption_ends_the_process_whatever_swallows_the_exception(body):
    result = run("print('written')\n" + body)
    assert (result.returncode, result.stdout) == (130, "written\n")
    assert result.stderr.splitlines()[-1] == "error: interrupted"


def test_an_interrupted_process_finishes_its_cleaning_up():
    body = "def work():\n    try:\n        yield\n    finally:\n        time.sleep(2)\n        print('stored')\n"
    result = run(body + "import contextlib\nwith contextlib.contextmanager(work)():\n    press()")
    assert (result.returncode, result.stdout, result.stderr) == (130, "stored\n", "error: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.3, 1.6, 1.9, 2.2, 2.6, 4])
def test_no_interruption_of_a_starting_run_is_lost(tmp_path, seconds):
    values = {"num_documents": 4000, "output": tmp_path / "out"}
    settings = ["--config=configs/pretrain.py", *(f"--config.{name}={value}" for name, value in values.items())]
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *settings], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode in (130, 75), errors  # 75: within the training loop, which saves first
    if process.returncode == 130:
        assert errors.splitlines()[-1] == "error: interrupted"
