"""Logs of a run: a JSONL file of metrics, a progress bar, and W&B if configured."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
from absl import logging
from tqdm import tqdm

from lc_jax.data.jsonl import append_jsonl, read_jsonl, write_jsonl
from lc_jax.training import tracking
from lc_jax.training.advice import Advice
from lc_jax.training.exports import Exports

SHOWN = ("loss", "eval_loss", "reward", "kl", "accuracy", "tokens_per_second")  # metrics on the progress bar
STARTING = "{desc}: {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # before the time left can be estimated


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Output folder of a run, with the settings that identify the run."""

    output: Path  # checkpoints, metrics.jsonl and the final model
    fixed_settings: Mapping[str, Any]  # by name; they must be the same when the run is resumed
    wandb: Mapping[str, Any] | None = None  # arguments of wandb.init; W&B is off without a project
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # all settings, for W&B
    exports: Exports | None = None  # of the model during training

    @classmethod
    def of(cls, settings: Mapping[str, Any], *names: str) -> Self:
        """Returns the run directory for these settings; those under `names` must stay the same."""
        fixed = dict(pair for name in names for pair in _leaves(name, settings[name]))
        return cls(Path(settings["output"]), fixed, settings["wandb"], settings)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yields (dotted name, value in JSON) of every field."""
    if not isinstance(value, Mapping):
        yield name, json.dumps(value)
        return
    for key, inner in value.items():
        yield from _leaves(f"{name}.{key}", inner)


class Run:
    """Log of one run: `metrics.jsonl` in the output folder, one row a step, written by process 0 only.

    The file is strict JSON: a number that is not finite is null. A resumed run drops the rows from its first step on,
    which it logs again. The progress bar estimates the time left from the second step on, since the first compiles.
    """

    def __init__(self, run_directory: RunDirectory, num_steps: int, first_step: int = 0) -> None:
        self.output, self.is_main = run_directory.output, jax.process_index() == 0
        self._path = self.output / "metrics.jsonl"
        self._started, self._tracker, self._num_steps = time.monotonic(), None, 0  # steps done by this process
        if not self.is_main:
            return
        self.output.mkdir(parents=True, exist_ok=True)
        previous = read_jsonl(self._path, allow_partial_line=True) if self._path.exists() else []
        write_jsonl(self._path, [row for row in previous if row["step"] < first_step])
        finished = {"disable": True} if first_step == num_steps else {}  # False would overrule TQDM_DISABLE
        self._bar = tqdm(
            total=num_steps, initial=first_step, desc=self.output.name, unit="step", mininterval=2, bar_format=STARTING,
            **finished,
        )  # fmt: skip
        self._bar.set_postfix_str("compiling the first step")
        if run_directory.wandb and run_directory.wandb.get("project"):
            self._tracker = tracking.start(run_directory.wandb, self.output, run_directory.config)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one row; values may be arrays of one element."""
        if not self.is_main:
            return
        row = {"step": step, "seconds": round(time.monotonic() - self._started, 2)}
        row |= {name: _plain(value) for name, value in metrics.items()}
        append_jsonl(self._path, [row])
        self._bar.set_postfix({k: f"{row[k]:.4g}" for k in SHOWN if isinstance(row.get(k), float)}, refresh=False)
        if self._tracker is not None:
            self._tracker.log(step, {k: v for k, v in row.items() if k != "step"})

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs a few rows of text as a table in W&B, if it is on."""
        if self.is_main and self._tracker is not None:
            self._tracker.log_table(step, rows)

    def advance(self) -> None:
        """Advances the progress bar by one step."""
        if not self.is_main:
            return
        self._bar.update()
        self._num_steps += 1
        if self._bar.disable:  # by TQDM_DISABLE: such a bar has none of these attributes
            return
        if self._num_steps == 1:  # its time includes compilation, so the estimate begins here
            self._bar.initial, self._bar.start_t = self._bar.n, time.time()
            self._bar.refresh()
        elif self._bar.bar_format:
            self._bar.bar_format = None

    def close(self) -> None:
        """Ends the progress bar and the W&B run."""
        if self.is_main:
            self._bar.close()
        if self._tracker is not None:
            self._tracker.finish()


def announce(path: str | Path, advice: Advice) -> None:
    """Logs the result of a task and the next command."""
    if jax.process_index() == 0:
        logging.info("Made %s.\nNext: %s\n(%s.)", path, advice.command, advice.note)


def _plain(value: Any) -> Any:
    """Returns a metric as a JSON value."""
    return value if isinstance(value, str | list | dict | bool | int) or value is None else float(value)
