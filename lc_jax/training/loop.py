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
from lc_jax.training import optimizer as optimizers
from lc_jax.training import state as states
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.logging import Destination, Run

MAX_SKIPPED = 5  # non-finite gradients in a row after which a run stops

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
    """How long and in what portions to train."""

    num_epochs: float
    batch_size: int  # examples per optimiser step, over all devices
    microbatch_size: int  # examples whose activations are held at once, over all devices
    eval_every: int
    save_every: int
    seed: int

    def num_steps(self, num_examples: int) -> int:
        """Optimiser steps in all, at least one."""
        return max(1, round(self.num_epochs * (num_examples // self.batch_size)))


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
    state, norm = states.apply_gradients(state, grads, tx, weight)
    return state, {k: v / weight for k, v in totals.items() if k != "weight"} | {
        "grad_norm": norm,
        "skipped_in_a_row": state.skipped,
    }


@functools.partial(jax.jit, static_argnames=("loss_fn",))
def eval_step(model: Model, batch: Mapping[str, Array], *, loss_fn: LossFn) -> Sums:
    """The sums of one batch, nothing changed."""
    return loss_fn(model, batch)


def evaluate(model: Model, data: Dataset, loss_fn: LossFn, batch_size: int) -> dict[str, float]:
    """Mean loss and metrics over all of `data`; the last batch is filled up with dummy rows of weight 0."""
    totals: dict[str, float] = {}
    for rows in batches.by_length(data.lengths.tolist(), batch_size):
        filled = np.concatenate([rows, np.full(batch_size - len(rows), -1, rows.dtype)])
        for name, value in eval_step(model, parallel.put_batch(dict(data.collate(filled))), loss_fn=loss_fn).items():
            totals[name] = totals.get(name, 0.0) + float(value)
    weight = max(totals.pop("weight", 0.0), 1e-8)
    return {f"eval_{name}": value / weight for name, value in totals.items()}


def fit(
    model: Model,
    loss_fn: LossFn,
    train: Dataset,
    held_out: Dataset | None,
    settings: FitSettings,
    optimizer: optimizers.OptimizerSettings,
    destination: Destination,
) -> Model:
    """Trains `model` and returns it; resumes from the newest checkpoint at the destination.

    Raises:
      FloatingPointError: MAX_SKIPPED gradients in a row were not finite; the last checkpoint is from before them.
      ValueError: the destination holds a run with other settings, or the micro-batch does not divide the batch.
    """
    if settings.batch_size % settings.microbatch_size:
        raise ValueError(
            f"microbatch_size {settings.microbatch_size} does not divide batch_size {settings.batch_size}."
        )
    order = batches.Order(train.lengths, settings.batch_size, settings.seed)
    num_steps = settings.num_steps(len(train.lengths))
    tx = optimizers.make_optimizer(optimizer, trainable=trainable(model.params))
    with Checkpoints(destination, every=settings.save_every) as checkpoints:
        state, first = checkpoints.restore(states.create(model.params, tx))
        run = Run(destination, num_steps, first)
        step_fn = functools.partial(
            train_step, loss_fn=loss_fn, tx=tx, microbatches=settings.batch_size // settings.microbatch_size
        )
        # From here on the state owns the parameters: each step donates them. `skeleton` only carries the structure.
        skeleton = model.with_params(None)
        for step in range(first, num_steps):
            started = time.monotonic()
            rows = order(step)
            batch, num_tokens = dict(train.collate(rows)), float(train.lengths[rows].sum())
            state, metrics = step_fn(state, skeleton, parallel.put_batch(batch))
            row: dict[str, Any] = {k: float(v) for k, v in metrics.items()}
            row["tokens_per_second"] = num_tokens / (time.monotonic() - started)
            row["padding"] = batch["tokens"].size / num_tokens - 1  # padding slots for each real token
            if row["skipped_in_a_row"]:
                logging.warning("Step %d: the gradient is not finite, skipped", step)
            if row["skipped_in_a_row"] >= MAX_SKIPPED:
                raise FloatingPointError(
                    f"{MAX_SKIPPED} gradients in a row were not finite at step {step} of {destination.output}; the "
                    f"rows were {rows.tolist()}. Lower learning_rate, or look at these examples."
                )
            if held_out is not None and ((step + 1) % settings.eval_every == 0 or step + 1 == num_steps):
                row |= evaluate(model.with_params(state.params), held_out, loss_fn, settings.microbatch_size)
            run.log(step, row)
            run.advance()
            checkpoints.save(step + 1, state, force=step + 1 == num_steps)
    run.close()
    return model.with_params(state.params)
