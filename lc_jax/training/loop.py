"""fit(): the one training loop of supervised models (language models and reward models)."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.models.transformer import Model, trainable
from lc_jax.preflight import NATURAL, POSITIVE, POSITIVE_INT, check_settings, divisors
from lc_jax.training import optimizer as optimizers
from lc_jax.training import state as states
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.logging import Run, RunDirectory

Arrays = Mapping[str, np.ndarray]  # one batch: equal leading dimensions, a multiple of the micro-batches
Sums = dict[
    str, Float[Array, ""]
]  # "loss" and "weight" (what the loss is averaged over), and metrics to be divided by it
LossFn = Callable[[Model, Mapping[str, Array]], Sums]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Encoded examples and the function that lays some of them out as a batch."""

    lengths: np.ndarray  # [N] tokens of each example
    collate: Callable[[np.ndarray], Arrays]  # row indices -> one batch; a negative index is a dummy row of weight 0


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Length of a training, and the sizes of its batches.

    A microbatch_size above the batch is the batch.

    Raises:
      ValueError: a size that cannot be, or a microbatch_size that does not divide the batch; names the flags.
    """

    num_epochs: float
    batch_size: int  # examples per optimiser step, over all devices
    microbatch_size: int  # examples whose activations are held at once, over all devices; 0: as many as fit
    eval_every: int  # steps; 0: only after the last one
    save_every: int  # steps; 0: only after the last one
    seed: int

    def __post_init__(self) -> None:
        check_settings(
            "fit", self, num_epochs=POSITIVE, batch_size=POSITIVE_INT, microbatch_size=NATURAL, eval_every=NATURAL,
            save_every=NATURAL,
        )  # fmt: skip
        size = min(self.microbatch_size, self.batch_size)
        object.__setattr__(self, "microbatch_size", size)
        if size and self.batch_size % size:
            raise ValueError(
                f"--config.fit.microbatch_size={size} does not divide --config.fit.batch_size={self.batch_size}: give "
                f"{divisors(self.batch_size, size)}."
            )

    def num_steps(self, num_examples: int) -> int:
        """Optimiser steps in all, at least one.

        Raises:
          ValueError: the examples do not fill one batch.
        """
        if num_examples < self.batch_size:
            raise ValueError(
                f"{num_examples} training examples do not fill one batch: set --config.fit.batch_size to "
                f"{max(num_examples, 1)} or less."
            )
        return max(1, round(self.num_epochs * (num_examples // self.batch_size)))

    def is_due(self, step: int, num_steps: int) -> bool:
        """Returns whether an evaluation follows after `step` of `num_steps` steps."""
        return step == num_steps or (self.eval_every > 0 and step % self.eval_every == 0)


@functools.partial(jax.jit, static_argnames=("loss_fn", "tx", "microbatches"), donate_argnames=("state",))
def train_step(
    state: states.TrainState,
    model: Model,
    batch: Mapping[str, Array],
    *,
    loss_fn: LossFn,
    tx: optimizers.Optimizer,
    microbatches: int,
) -> tuple[states.TrainState, Sums]:
    """One optimiser step on one batch, its micro-batches in turn.

    Loss and metrics are sums over the whole batch divided by its whole weight, so that the number of micro-batches
    changes nothing. `model` gives the structure only; the parameters are the state's.

    Differs: the published code averages the micro-batches' means, which weighs tokens of short batches more.
    """

    def sums(params: Any, part: Mapping[str, Array]) -> tuple[Float[Array, ""], Sums]:
        out = loss_fn(model.with_params(params), part)
        return out["loss"], out

    def add(carry: Any, part: Mapping[str, Array]) -> tuple[Any, None]:
        (_, out), grads = jax.value_and_grad(sums, has_aux=True)(state.params, part)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), carry, (grads, out)), None

    # Rows are dealt to the micro-batches in turn, so that each device keeps its own.
    parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)
    if microbatches == 1:
        (_, totals), grads = jax.value_and_grad(sums, has_aux=True)(state.params, jax.tree.map(lambda x: x[0], parts))
    else:
        shapes = jax.eval_shape(sums, state.params, jax.tree.map(lambda x: x[0], parts))[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), (state.params, shapes))
        (grads, totals), _ = jax.lax.scan(add, zeros, parts)
    weight = jnp.maximum(totals["weight"], 1e-8)
    state, norm = states.apply_gradients(state, grads, tx, weight, totals["loss"])
    return state, {k: v / weight for k, v in totals.items() if k != "weight"} | {
        "grad_norm": norm,
        "skipped_in_a_row": state.skipped,
    }


@functools.partial(jax.jit, static_argnames=("loss_fn",))
def eval_step(model: Model, batch: Mapping[str, Array], *, loss_fn: LossFn) -> Sums:
    """The sums of one batch, nothing changed."""
    return loss_fn(model, batch)


def evaluate(model: Model, data: Dataset, loss_fn: LossFn, batch_size: int) -> dict[str, float]:
    """Mean loss and metrics over all of `data`; the last batch is filled up with dummy rows of weight 0.

    Raises:
      FloatingPointError: the loss of a batch is not finite; names its rows.
    """
    totals: dict[str, float] = {}
    for rows in batches.group_by_length(data.lengths.tolist(), batch_size):
        filled = np.concatenate([rows, np.full(batch_size - len(rows), -1, rows.dtype)])
        sums = eval_step(model, parallel.put_batch(dict(data.collate(filled))), loss_fn=loss_fn)
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
        if not np.isfinite(totals["loss"]):
            raise FloatingPointError(
                f"The loss of held-out rows {rows.tolist()} is not finite: look at these examples, or lower "
                "--config.optimizer.learning_rate."
            )
    weight = max(totals.pop("weight", 0.0), 1e-8)
    return {f"eval_{name}": value / weight for name, value in totals.items()}


def fit(
    model: Model,
    loss_fn: LossFn,
    train: Dataset,
    held_out: Dataset | None,
    settings: FitSettings,
    optimizer: optimizers.OptimizerSettings,
    run_directory: RunDirectory,
) -> Model:
    """Trains `model` and returns it; resumes from the newest checkpoint in the run directory.

    Raises:
      FloatingPointError: `states.MAX_SKIPPED` losses or gradients in a row, or those of all steps, were not finite; the
        last checkpoint is from before them.
      ValueError: the run directory holds a run with other settings, or the examples do not fill a batch.
    """
    num_steps = settings.num_steps(len(train.lengths))
    order = batches.BatchIndices(train.lengths, settings.batch_size, settings.seed)
    tx = optimizers.make_optimizer(optimizer, trainable=trainable(model.params))
    microbatches = settings.batch_size // settings.microbatch_size
    with Checkpoints(run_directory, every=settings.save_every) as checkpoints:
        state, first = checkpoints.restore(states.create(model.params, tx), num_steps)
        if first == num_steps:
            return model.with_params(state.params)
        _describe(model, train, settings, num_steps, first)
        run = Run(run_directory, num_steps, first)
        step_fn = functools.partial(train_step, loss_fn=loss_fn, tx=tx, microbatches=microbatches)
        # From here on the state owns the parameters: each step donates them. `skeleton` only carries the structure.
        skeleton = model.with_params(None)
        for step in range(first, num_steps):
            started = time.monotonic()
            rows = order(step)
            batch, num_tokens = dict(train.collate(rows)), float(train.lengths[rows].sum())
            state, metrics = step_fn(state, skeleton, parallel.put_batch(batch))
            row: dict[str, Any] = {k: float(v) for k, v in metrics.items()}
            row["learning_rate"] = float(optimizer.learning_rate_at(states.last_update(state)))
            row["tokens_per_second"] = num_tokens / (time.monotonic() - started)
            row["padding"] = batch["tokens"].size / num_tokens - 1  # padding slots for each real token
            if row["skipped_in_a_row"]:
                _report_skipped(step, row["skipped_in_a_row"], rows, min(states.MAX_SKIPPED, num_steps), run_directory)
            if held_out is not None and settings.is_due(step + 1, num_steps):
                row |= evaluate(model.with_params(state.params), held_out, loss_fn, settings.microbatch_size)
            run.log(step, row)
            run.advance()
            if run_directory.exports:
                run_directory.exports.after(step + 1, functools.partial(model.with_params, state.params))
            checkpoints.save(step + 1, state, force=step + 1 == num_steps)
    run.close()
    return model.with_params(state.params)


def _describe(model: Model, train: Dataset, settings: FitSettings, num_steps: int, first: int) -> None:
    """Logs the sizes that are in effect."""
    logging.info(
        "%d trained parameters; %d examples of %d tokens; steps %d to %d of %d examples, micro-batches: %d of %d",
        sum(leaf.size for leaf in jax.tree.leaves(model.params)), len(train.lengths), train.lengths.sum(), first,
        num_steps, settings.batch_size, settings.batch_size // settings.microbatch_size, settings.microbatch_size,
    )  # fmt: skip


def _report_skipped(step: int, skipped: float, rows: np.ndarray, most: int, run_directory: RunDirectory) -> None:
    """Warns of a step whose loss or gradient is not finite; stops the run at `most` such steps in a row."""
    if skipped < most:
        logging.warning("Step %d: loss or gradient is not finite, skipped; its rows were %s", step, rows.tolist())
        return
    raise FloatingPointError(
        f"{most} gradients in a row were not finite at step {step} of {run_directory.output}; the rows were "
        f"{rows.tolist()}. Lower --config.optimizer.learning_rate, or look at these examples and at the model."
    )
