"""Hugging Face folders of a model during its training, at regular steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from lc_jax.models.transformer import Model


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
