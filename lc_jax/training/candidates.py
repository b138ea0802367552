"""The checkpoints of a run with the best validation rewards, from which one is selected later (paper section 5)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

FILE = "candidate.json"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A checkpoint in `<run>/candidates/step-<step>/model`."""

    step: int  # updates that were made
    validation_reward: float

    def place(self, run: Path) -> Path:
        """Its folder under a run's output."""
        return run / "candidates" / f"step-{self.step:06d}"


def load(run: Path) -> list[Candidate]:
    """Returns the whole candidates of a run, best validation reward first; of equal ones the earlier."""
    candidates = [Candidate(**json.loads(path.read_text())) for path in run.glob(f"candidates/*/{FILE}")]
    return sorted(candidates, key=lambda c: (-c.validation_reward, c.step))


class Candidates:
    """Keeps the `keep` best checkpoints among those offered from step `first` on. A resumed run finds the earlier."""

    def __init__(self, run: Path, keep: int, first: int) -> None:
        self._run, self._keep, self._first = run, keep, first
        self._best = load(run)

    def offer(self, candidate: Candidate, save: Callable[[Path], None]) -> None:
        """Saves the checkpoint by `save(folder)` if it is among the best, and drops the one that no longer is."""
        if candidate.step < self._first:
            return
        others = [c for c in self._best if c.step != candidate.step]
        ranked = sorted([*others, candidate], key=lambda c: (-c.validation_reward, c.step))
        self._best = ranked[: self._keep]
        if candidate in self._best:
            save(candidate.place(self._run) / "model")
        if jax.process_index():
            return
        if candidate in self._best:  # whole only now
            (candidate.place(self._run) / FILE).write_text(json.dumps(dataclasses.asdict(candidate)))
        for beaten in ranked[self._keep :]:
            shutil.rmtree(beaten.place(self._run), ignore_errors=True)
