"""The two models that PPO trains, as one record with one tree of parameters."""

from __future__ import annotations

from typing import Any

import flax.struct

from lc_jax.models.transformer import Model


@flax.struct.dataclass
class ActorCritic:
    """The two models that PPO trains, as structures: their parameters are in the TrainState under the same names."""

    policy: Model
    critic: Model | None

    def params(self) -> dict[str, Any]:
        """Returns one tree for the optimiser, so that the gradient norm is clipped over both models together."""
        return {name: model.params for name, model in self.models().items()}

    def models(self) -> dict[str, Model]:
        """Returns the policy and, where there is one, the critic, by name."""
        return {"policy": self.policy} | ({} if self.critic is None else {"critic": self.critic})

    def with_params(self, params: dict[str, Any] | None) -> ActorCritic:
        """Returns these structures with other parameters (or none)."""
        get = (params or {}).get
        critic = None if self.critic is None else self.critic.with_params(get("critic"))
        return ActorCritic(self.policy.with_params(get("policy")), critic)
