"""Breaks one line at a time in a copy of the repository, and reports which of these faults the fast tests miss.

    python -m tests.mutate           # all of tests/mutations.txt, some minutes
    python -m tests.mutate kl        # those whose file, text or tests hold "kl"
    python -m tests.mutate --list

The last line is such as "60 mutations, 0 survivors". The exit code is 1 where one survives, or where a text to be
replaced does not occur exactly once in its file: then the list is to be mended.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lc_jax", "configs", "tests", "pyproject.toml", "requirements.txt")
CACHE = ROOT / ".pytest_cache" / "jax"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A fault of one line, and the tests that fail with it."""

    file: str
    old: str  # occurs exactly once in the file
    new: str
    tests: tuple[str, ...]

    @property
    def label(self) -> str:
        """Says in one line what is changed where."""
        return f"{self.file}: {self.old}  =>  {self.new}"


def load(path: Path = ROOT / "tests" / "mutations.txt") -> list[Mutation]:
    """The mutations of a list; its first lines describe the format."""
    mutations, file, tests = [], "", ()
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if not line.startswith(" "):
            file, *names = line.split()
            tests = tuple(names)
            continue
        old, new = (text.strip() for text in line.split("  =>  "))
        mutations.append(Mutation(file, old, new, tests))
    return mutations


def stale(mutations: Sequence[Mutation]) -> list[str]:
    """Returns a message for each old text that does not occur exactly once in its file."""
    counts = [(m, (ROOT / m.file).read_text().count(m.old)) for m in mutations]
    return [f"{m.file}: {m.old!r} occurs {count} times, mend tests/mutations.txt" for m, count in counts if count != 1]


@contextlib.contextmanager
def copied_tree() -> Iterator[Path]:
    """A temporary copy of what the tests need."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "copy"
        root.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, root / name)
        yield root


def passes(tests: Sequence[str], root: Path) -> bool:
    """Returns whether all `tests` pass in the copy `root`.

    Raises:
      RuntimeError: pytest could not run them.
    """
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # neither passed nor failed
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def survives(mutation: Mutation, root: Path) -> bool:
    """Returns whether the tests pass in the copy `root` with this fault; the file is restored afterwards."""
    path = root / mutation.file
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        return passes(mutation.tests, root)
    finally:
        path.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the mutations chosen and prints one line each; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="", help="a text that file, change or tests hold")
    parser.add_argument("--list", action="store_true", help="print the mutations and run nothing")
    options = parser.parse_args(arguments)
    chosen = [m for m in load() if options.pattern in f"{m.label} {' '.join(m.tests)}"]
    wrong = stale(chosen)
    if options.list or wrong:
        print(*(wrong or [m.label for m in chosen]), sep="\n")
        return int(bool(wrong))
    survivors = 0
    with copied_tree() as root:
        if not passes(sorted({name for mutation in chosen for name in mutation.tests}), root):
            print("the tests fail without any mutation: mend them first")
            return 1
        for mutation in chosen:
            started = time.monotonic()
            alive = survives(mutation, root)
            survivors += alive
            print(
                f"{'SURVIVES' if alive else 'caught':8} {time.monotonic() - started:4.0f} s  {mutation.label}",
                flush=True,
            )
    print(f"{len(chosen)} mutations, {survivors} survivors")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
