"""Orbax checkpoints of a training state: asynchronous, resumed on the mesh at hand, valid whenever the process dies."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from lc_jax.data.jsonl import changes
from lc_jax.training.logging import Destination

State = TypeVar("State")
RESUMABLE = 75  # exit code (EX_TEMPFAIL) of a run that was preempted after it saved


class Checkpoints:
    """Checkpoints of one run under its output folder; within its `with`, SIGTERM asks for a last one.

    Raises:
      ValueError: the directory holds a run with other settings; the message names them.
    """

    def __init__(self, destination: Destination, *, every: int, keep: int = 2) -> None:
        directory, describe = destination.output / "checkpoints", dict(destination.describe)
        self._every = every
        self._preempted = False
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options, metadata=describe)
        # Orbax keeps the metadata of the first run: what differs now is a changed setting.
        kept = self._manager.metadata().custom_metadata or {}
        if self._manager.latest_step() is not None:
            changed = changes(kept, describe)
            if changed:
                raise ValueError(
                    f"{directory} holds a run with other settings ({changed}). Give another --config.output, or delete "
                    "it."
                )

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        return self

    def __exit__(self, *raised: object) -> None:
        """Waits until everything is on disk; SIGTERM ends the process again, one that came meanwhile too."""
        try:
            self._manager.close()
        finally:
            signal.signal(signal.SIGTERM, self._handler)
        if self._preempted and raised[0] is None:  # after the last save: the same command does what is left
            signal.raise_signal(signal.SIGTERM)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        self._preempted = True

    def _stop(self) -> bool:
        """Whether any process was told to stop: all must save the same step."""
        if jax.process_count() == 1:
            return self._preempted
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self._preempted))))

    def restore(self, state: State) -> tuple[State, int]:
        """The newest valid checkpoint laid out as `state` is (its shapes, dtypes and shardings), and its step.

        Returns `state` itself and 0 when there is none.
        """
        step = self._manager.latest_step()
        if step is None:
            return state, 0
        abstract = jax.tree.map(lambda x: ocp.utils.to_shape_dtype_struct(x), state)
        logging.info("Resuming from step %d of %s", step, self._manager.directory)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract)), step

    def save(self, step: int, state: Any, *, force: bool = False) -> None:
        """Saves after `step` steps when it is due; leaves the process when it was asked to stop.

        Raises:
          SystemExit: with code 75 after SIGTERM, the state saved: the same command resumes.
        """
        stop = self._stop()
        if (force or stop or step % self._every == 0) and self._manager.latest_step() != step:
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        if stop:
            self._manager.wait_until_finished()
            logging.warning("Stopped by SIGTERM; step %d is saved, run the same command to go on", step)
            raise SystemExit(RESUMABLE)
