"""Hugging Face folders of a model while it is trained, at chosen steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from lc_jax.models.transformer import Model


@dataclasses.dataclass(frozen=True)
class Exports:
    """Writes `<output>/steps/<step>` after every so many steps; a resumed run leaves those that are there."""

    output: Path
    every: int  # steps; 0: none
    save: Callable[[Path, Model], None]

    def after(self, step: int, model: Callable[[], Model]) -> None:
        """Writes the model as it is after `step` steps, where that is due."""
        folder = self.output / "steps" / f"{step:06d}"
        if self.every and step % self.every == 0 and not folder.exists():
            self.save(folder, model())
