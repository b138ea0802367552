"""Hugging Face folders of a model during its training: at regular steps, and candidates for selection.

Candidates are the checkpoints with the best validation rewards, one of which is selected later (paper section 5).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

from lc_jax.models.transformer import Model

CANDIDATE = "candidate.json"


@dataclasses.dataclass(frozen=True)
class Exports:
    """Saves the model to `<output>/steps/<step>` every `every` steps, unless that folder exists."""

    output: Path
    every: int  # number of steps; 0: never
    save: Callable[[Path, Model], None]

    def after(self, step: int, model: Callable[[], Model]) -> None:
        """Saves the model after `step` steps if an export is due."""
        folder = self.output / "steps" / f"{step:06d}"
        if self.every and step % self.every == 0 and not folder.exists():
            self.save(folder, model())


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Checkpoint in `<run>/candidates/step-<step>/model`."""

    step: int  # number of updates
    validation_reward: float

    def folder(self, run: Path) -> Path:
        """Returns its folder in a run's output."""
        return run / "candidates" / f"step-{self.step:06d}"


def load_candidates(run: Path) -> list[Candidate]:
    """Loads the complete candidates of a run, best validation reward first; ties by step."""
    candidates = [Candidate(**json.loads(path.read_text())) for path in run.glob(f"candidates/*/{CANDIDATE}")]
    return sorted(candidates, key=lambda c: (-c.validation_reward, c.step))


class Candidates:
    """Keeps the `keep` best checkpoints from step `first` on, also when a run is resumed."""

    def __init__(self, run: Path, keep: int, first: int) -> None:
        self._run, self._keep, self._first = run, keep, first
        self._best = load_candidates(run)

    def offer(self, candidate: Candidate, save: Callable[[Path], None]) -> None:
        """Saves the checkpoint with `save(folder)` if it is among the best, and deletes the one that no longer is."""
        if candidate.step < self._first:
            return
        others = [c for c in self._best if c.step != candidate.step]
        ranked = sorted([*others, candidate], key=lambda c: (-c.validation_reward, c.step))
        self._best = ranked[: self._keep]
        if candidate in self._best:
            save(candidate.folder(self._run) / "model")
        if jax.process_index():
            return
        if candidate in self._best:  # written last: marks the folder as complete
            (candidate.folder(self._run) / CANDIDATE).write_text(json.dumps(dataclasses.asdict(candidate)))
        for other in ranked[self._keep :]:
            shutil.rmtree(other.folder(self._run), ignore_errors=True)
