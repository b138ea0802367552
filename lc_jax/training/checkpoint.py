"""Orbax checkpoints of a training state: asynchronous, restored onto any mesh, valid whenever the process dies."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from lc_jax.provenance import describe_changes
from lc_jax.training.logging import RunDirectory

State = TypeVar("State")
RESUMABLE = 75  # exit code (EX_TEMPFAIL) of a run that was stopped after it saved
KEEP = 2  # checkpoints on disk, unless a run asks for another number
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # preemption, Ctrl-C


class Checkpoints:
    """Checkpoints of one run in its output folder; in its context, SIGTERM and Ctrl-C request a last one.

    A second Ctrl-C raises KeyboardInterrupt at once: the run can resume from the newest checkpoint on disk.

    Args:
      every: steps between checkpoints; 0: only after the last step.
      keep: number of checkpoints on disk; older ones are deleted.

    Raises:
      ValueError: the directory holds a run with other settings; the message names them.
    """

    def __init__(self, run_directory: RunDirectory, *, every: int, keep: int = KEEP) -> None:
        directory, settings = run_directory.output / "checkpoints", dict(run_directory.fixed_settings)
        self._every, self._output = every, run_directory.output
        self._signal: int | None = None  # the one that requested a last checkpoint
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options, metadata=settings)
        # Orbax keeps the metadata of the first run, so a difference is a changed setting.
        record = self._manager.metadata().custom_metadata or {}
        if self._manager.latest_step() is not None:
            changed = describe_changes(record, settings)
            if changed:
                raise ValueError(
                    f"{directory} holds a run with other settings ({changed}). Give another --config.output, or delete "
                    "it."
                )

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *raised: object) -> None:
        """Waits until everything is on disk; raises a signal again that came after the last `save`."""
        try:
            self._manager.close()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        if self._signal is not None and raised[0] is None:  # after the last save: the same command completes the run
            signal.raise_signal(self._signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._signal == signal.SIGINT:
                if callable(handler := self._handlers[signal.SIGINT]):
                    handler(number, frame)  # the process's own handler, which also ends it if the exception is lost
                raise KeyboardInterrupt
            logging.warning("Ctrl-C: the run stops after this step and saves it; press Ctrl-C again to stop at once")
        self._signal = number

    def _stop(self) -> bool:
        """Returns whether any process has a signal, since all must save the same step."""
        if jax.process_count() == 1:
            return self._signal is not None
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self._signal is not None))))

    def restore(self, state: State, num_steps: int | None = None) -> tuple[State, int]:
        """Restores the newest valid checkpoint, with shapes, dtypes and shardings of `state`; returns it and its step.

        Returns `state` itself and 0 if there is none.

        Args:
          num_steps: steps of the whole run, to log whether it is finished.
        """
        step = self._manager.latest_step()
        if step is None:
            return state, 0
        abstract = jax.tree.map(lambda x: ocp.utils.to_shape_dtype_struct(x), state)
        if step == num_steps:
            model = self._output / "model"
            logging.info("Finished before (%d of %d steps): only %s is written again.", step, step, model)
        else:
            logging.info("Resuming from step %d of %s", step, self._manager.directory)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract)), step

    def save(self, step: int, state: Any, *, force: bool = False) -> None:
        """Saves the state if a checkpoint is due after `step` steps; exits if a signal requested it.

        Raises:
          SystemExit: with code 75 after SIGTERM or Ctrl-C, the state saved: the same command resumes.
        """
        stop = self._stop()
        due = self._every > 0 and step % self._every == 0
        if (force or stop or due) and self._manager.latest_step() != step:
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        if stop:
            self._manager.wait_until_finished()
            name = signal.Signals(self._signal).name if self._signal else "another host"
            logging.warning("Stopped by %s; step %d is saved. Run the same command to resume.", name, step)
            raise SystemExit(RESUMABLE)
