"""Losses of supervised training as (sum, count): parts add up exactly, and the mean comes last."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def next_token_loss(
    logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy (nats) summed over the masked-in tokens, and how many there are."""
    return -jnp.sum(jnp.where(mask, logprobs, 0.0)), jnp.sum(mask).astype(jnp.float32)


def soft_label_loss(
    logits: Float[Array, " B"], labels: Float[Array, " B"], mask: Bool[Array, " B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Binary cross-entropy (nats) of sigmoid(logits) against probabilities, summed over real rows, and their number.

    softplus(x) - x y, which neither overflows nor takes the log of zero.
    """
    losses = jax.nn.softplus(logits) - logits * labels
    return jnp.sum(jnp.where(mask, losses, 0.0)), jnp.sum(mask).astype(jnp.float32)
