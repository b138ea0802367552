"""Language-model training on (prompt, target) token sequences: batches, and the loss over target tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lc_jax.data import batches
from lc_jax.data.examples import Encoded
from lc_jax.models.transformer import Model
from lc_jax.training.loop import Arrays, Dataset, Sums
from lc_jax.training.losses import next_token_loss

DUMMY = Encoded((0,), 1)  # no target token: weight 0


def dataset(encoded: Sequence[Encoded]) -> Dataset:
    """Returns right-padded batches of token ids, in few lengths, with the position of each first target."""
    lengths = np.asarray([len(e.tokens) for e in encoded])
    boundaries = batches.bucket_boundaries(lengths)

    def collate(rows: np.ndarray) -> Arrays:
        batch = [encoded[i] if i >= 0 else DUMMY for i in rows]
        length = boundaries[np.searchsorted(boundaries, max(len(e.tokens) for e in batch))]
        padded = batches.pad([e.tokens for e in batch], length)
        firsts = np.asarray([e.num_source for e in batch], np.int32)
        return {"tokens": padded.tokens, "lengths": padded.lengths, "first_targets": firsts}

    return Dataset(lengths, collate)


def loss_fn(model: Model, batch: Mapping[str, Array]) -> Sums:
    """Computes cross-entropy (nats) summed over target tokens, end of sequence included, and their number."""
    module = model.bind()
    hidden = module(batch["tokens"], batch["lengths"])
    logprobs, _ = module.logprobs(hidden[:, :-1], batch["tokens"][:, 1:], jnp.float32(1.0))
    positions = jnp.arange(1, batch["tokens"].shape[1])
    mask = (positions >= batch["first_targets"][:, None]) & (positions < batch["lengths"][:, None])
    loss, weight = next_token_loss(logprobs, mask)
    return {"loss": loss, "weight": weight}
