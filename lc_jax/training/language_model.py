"""Language-model training on (prompt, target) token sequences: the batches and the loss, which covers targets only."""

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
    """Right-padded batches of token ids with the place where each target begins, in few widths."""
    lengths = np.asarray([len(e.tokens) for e in encoded])
    widths = batches.bucket_boundaries(lengths)

    def collate(rows: np.ndarray) -> Arrays:
        chosen = [encoded[i] if i >= 0 else DUMMY for i in rows]
        width = widths[np.searchsorted(widths, max(len(e.tokens) for e in chosen))]
        padded = batches.pad([e.tokens for e in chosen], width)
        firsts = np.asarray([e.num_source for e in chosen], np.int32)
        return {"tokens": padded.tokens, "spans": padded.spans, "first_targets": firsts}

    return Dataset(lengths, collate)


def loss_fn(model: Model, batch: Mapping[str, Array]) -> Sums:
    """Cross-entropy (nats) summed over target tokens, end of sequence included, and their number."""
    module = model.bind()
    hidden = module(batch["tokens"], batch["spans"])
    logprobs, _ = module.logprobs(hidden[:, :-1], batch["tokens"][:, 1:], jnp.float32(1.0))
    slots = jnp.arange(1, batch["tokens"].shape[1])
    mask = (slots >= batch["first_targets"][:, None]) & (slots < batch["spans"][:, 1:])
    loss, weight = next_token_loss(logprobs, mask)
    return {"loss": loss, "weight": weight}
