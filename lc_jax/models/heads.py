"""Scalar heads: the reward model reads one number at the last real token, the value model one at every position."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lc_jax.models.config import Config
from lc_jax.models.transformer import CausalLM


class RewardHead(nnx.Module):
    """hidden -> scalar, zero-initialised: a fresh value model says 0 everywhere, a fresh reward model p = 1/2."""

    def __init__(self, config: Config) -> None:
        self.weight = nnx.Param(jnp.zeros((1, config.hidden_size), config.param_dtype), out_sharding=(None, "embed"))
        self.bias = nnx.Param(jnp.zeros(1, config.param_dtype), out_sharding=(None,))

    def __call__(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T"]:
        weight, bias = self.weight[...].astype(hidden.dtype), self.bias[...].astype(jnp.float32)
        return jnp.einsum("btd,od->bto", hidden, weight, preferred_element_type=jnp.float32)[..., 0] + bias


class ScalarModel(nnx.Module):
    """A decoder with a scalar head; its language-model head is stored and never used."""

    def __init__(self, config: Config, key: jax.Array) -> None:
        self.config = config
        self.backbone_model = CausalLM(config, key)
        self.reward_head = RewardHead(config)

    def __call__(
        self, tokens: Int[Array, "B T"], lengths: Int[Array, " B"] | None = None, **rows: Any
    ) -> Float[Array, "B T"]:
        """Computes the scalar at every position, float32. A sequence's reward is the one at its last real token.

        Args:
          lengths, rows: as in `CausalLM`.
        """
        return self.reward_head(self.backbone_model(tokens, lengths, **rows))
