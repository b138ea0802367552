"""Reward-model training on (token sequence, probability label): the batches and the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lc_jax.data import batches
from lc_jax.inference.score import sequence_rewards
from lc_jax.models.transformer import Model
from lc_jax.training import loop
from lc_jax.training.losses import soft_label_loss


def loss_fn(model: Model, batch: Mapping[str, Array]) -> loop.Sums:
    """Returns sums over real rows: binary cross-entropy, number of rows, squared error of the probability."""
    logits = sequence_rewards(model, batch["tokens"], batch["lengths"])
    loss, weight = soft_label_loss(logits, batch["labels"], batch["weights"] > 0)
    squared = jnp.sum(jnp.where(batch["weights"] > 0, (jax.nn.sigmoid(logits) - batch["labels"]) ** 2, 0.0))
    return {"loss": loss, "weight": weight, "squared_error": squared}


def dataset(sequences: Sequence[Sequence[int]], labels: Sequence[float]) -> loop.Dataset:
    """Returns right-padded batches of token ids with probability labels, in few lengths."""
    probs, lengths = np.asarray(labels, np.float32), np.asarray([len(s) for s in sequences])
    boundaries = batches.bucket_boundaries(lengths)

    def collate(rows: np.ndarray) -> loop.Arrays:
        batch = [sequences[i] if i >= 0 else [0] for i in rows]
        padded = batches.pad(batch, boundaries[np.searchsorted(boundaries, max(map(len, batch)))])
        weights = (rows >= 0).astype(np.float32)
        return {"tokens": padded.tokens, "lengths": padded.lengths, "labels": probs[rows] * weights, "weights": weights}

    return loop.Dataset(lengths, collate)
