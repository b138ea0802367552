"""Seconds of each stage of launch/quickstart.sh, and those of an earlier run.

python -m benchmarks.quickstart                                   runs it in a new folder: minutes
python -m benchmarks.quickstart --log new.txt --before old.txt    reads what two runs printed

Writes runs/benchmarks/quickstart-<device>.json; `--output benchmarks/results` replaces the figures of the repository.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report

SCRIPT = report.ROOT / "launch" / "quickstart.sh"


def stages(log: str) -> dict[str, float]:
    """Returns the seconds of each stage from the output of the quickstart.

    Raises:
      ValueError: no stage ended in it.
    """
    seconds = {name: float(number) for name, number in re.findall(r"^== (.+): (\d+) s$", log, re.MULTILINE)}
    if not seconds:
        raise ValueError(f"No stage of {SCRIPT.name} ended in this log; give what a whole run printed.")
    return seconds


def run() -> str:
    """Runs the quickstart in a temporary folder and returns its output."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"LC_OUTPUT": f"{folder}/miniature"}
        process = subprocess.run(
            ["bash", str(SCRIPT)], cwd=report.ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return process.stdout


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, or reads, and reports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, help="what a quickstart printed, in place of running one")
    parser.add_argument("--before", type=Path, help="what an earlier one printed")
    parser.add_argument("--output", type=Path, default=report.ROOT / "runs" / "benchmarks")
    args = parser.parse_args(argv)
    args.size, args.full, args.dry_run = report.MINIATURE, False, False
    now = stages(args.log.read_text() if args.log else run())
    before = stages(args.before.read_text()) if args.before else {}
    common = [name for name in now if name in before]
    rows = [report.Row(name, seconds, "before", before.get(name)) for name, seconds in now.items()]
    total = sum(before[name] for name in common) if common == list(now) else None
    report.finish("quickstart", args, None, [*rows, report.Row("all", sum(now.values()), "before", total)])


if __name__ == "__main__":
    main()
