"""Where a run's numbers go: a JSONL file (the record), the terminal (progress), and W&B when asked."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
from absl import logging
from tqdm import tqdm

from lc_jax.data.jsonl import read_jsonl, write_jsonl

SHOWN = ("loss", "eval_loss", "reward", "kl", "accuracy", "tokens_per_second")  # on the progress bar, when logged


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where a run goes and what it is."""

    output: Path  # checkpoints, metrics.jsonl and the final model
    describe: Mapping[str, Any]  # settings that must stay the same when the run is resumed, by name
    wandb: Mapping[str, Any] | None = None  # arguments of wandb.init; W&B is off without a project

    @classmethod
    def of(cls, settings: Mapping[str, Any], *names: str) -> Self:
        """That of a run with these settings; those under `names` must stay the same."""
        described = dict(pair for name in names for pair in _leaves(name, settings[name]))
        return cls(Path(settings["output"]), described, settings["wandb"])


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """(dotted name, value in JSON) of every field."""
    if not isinstance(value, Mapping):
        yield name, json.dumps(value)
        return
    for key, inner in value.items():
        yield from _leaves(f"{name}.{key}", inner)


class Run:
    """The log of one run: `metrics.jsonl` in the output directory, one row a step, written by process 0 only.

    A resumed run keeps the rows before its first step and drops later ones, which would be logged twice.
    """

    def __init__(self, destination: Destination, num_steps: int, first_step: int = 0) -> None:
        output, wandb = destination.output, destination.wandb
        self.output, self.is_main = output, jax.process_index() == 0
        self._path = output / "metrics.jsonl"
        self._started, self._wandb = time.monotonic(), None
        if not self.is_main:
            return
        output.mkdir(parents=True, exist_ok=True)
        kept = (
            [row for row in read_jsonl(self._path, torn=True) if row["step"] < first_step]
            if self._path.exists()
            else []
        )
        write_jsonl(self._path, kept)
        self._bar = tqdm(total=num_steps, initial=first_step, desc=output.name, unit="step", mininterval=2)
        if wandb and wandb.get("project"):
            self._start_wandb(wandb)

    def _start_wandb(self, settings: Mapping[str, Any]) -> None:
        try:
            import wandb

            self._wandb = wandb.init(dir=str(self.output), **settings)
        except Exception as error:  # the run must go on without it: metrics.jsonl is the record
            logging.warning("W&B could not start (%s); metrics go on to %s", error, self._path)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one row; values may be arrays of one element."""
        if not self.is_main:
            return
        row = {"step": step, "seconds": round(time.monotonic() - self._started, 2)}
        row |= {name: _plain(value) for name, value in metrics.items()}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._bar.set_postfix({k: f"{row[k]:.4g}" for k in SHOWN if isinstance(row.get(k), float)}, refresh=False)
        if self._wandb is not None:
            self._wandb.log({k: v for k, v in row.items() if k != "step"}, step=step)

    def advance(self) -> None:
        """One training step is done."""
        if self.is_main:
            self._bar.update()

    def close(self) -> None:
        """Ends the progress bar and the W&B run."""
        if self.is_main:
            self._bar.close()
        if self._wandb is not None:
            self._wandb.finish()


def _plain(value: Any) -> Any:
    """A JSON value; non-finite floats become strings, which every JSON reader takes."""
    if isinstance(value, str | list | dict | bool | int) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)
