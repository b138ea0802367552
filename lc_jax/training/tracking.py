"""Weights & Biases, in addition to `metrics.jsonl`; no failure here ends a run."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lc_jax.data.jsonl import dumps
from lc_jax.provenance import without_secrets

MODES = ("online", "offline", "disabled")
RUN_ID = "wandb_run_id.txt"  # in the output folder: a resumed run is the same run


def check(settings: Mapping[str, Any]) -> None:
    """Checks the mode of W&B.

    Raises:
      ValueError: there is no such mode; the message names the flag.
    """
    if settings["project"] and settings["mode"] not in MODES:
        raise ValueError(f"--config.wandb.mode={settings['mode']}: give one of {', '.join(MODES)}.")


def start(settings: Mapping[str, Any], output: Path, config: Mapping[str, Any]) -> Tracker | None:
    """Starts the W&B run of an output folder, or resumes it under its id; returns None if W&B cannot start.

    Args:
      settings: arguments of wandb.init.
      config: the settings of the whole run, which W&B shows.
    """
    path = output / RUN_ID
    try:
        import wandb

        run_id = path.read_text().strip() if path.is_file() else ""
        run_id = run_id or secrets.token_hex(4)
        path.write_text(run_id + "\n")
        run = wandb.init(
            **{"name": output.name, **settings},
            id=run_id,
            resume="allow",
            dir=str(output),
            config=without_secrets(config),
        )
        return Tracker(run, wandb.Table)
    except Exception as error:
        logging.warning("W&B could not start (%s); metrics are in %s", error, output / "metrics.jsonl")
        return None


class Tracker:
    """Logs to a W&B run until its first failure."""

    def __init__(self, run: Any, table: Callable[..., Any]) -> None:
        self._run, self._table = run, table

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs the metrics of a step."""
        self._try(lambda run: run.log(dict(metrics), step=step))

    def log_table(self, step: int, rows: Sequence[Mapping[str, Any]], name: str = "samples") -> None:
        """Logs rows with equal keys as a table; records in their cells become text."""
        columns = list(rows[0]) if rows else []
        data = [[dumps(v) if isinstance(v, dict | list) else v for v in map(row.get, columns)] for row in rows]
        self._try(lambda run: run.log({name: self._table(columns=columns, data=data)}, step=step))

    def finish(self) -> None:
        """Ends the run."""
        self._try(lambda run: run.finish())

    def _try(self, call: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            logging.warning("W&B failed and is left out from here on (%s); metrics.jsonl is still written", error)
            self._run = None
