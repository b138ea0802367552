"""prompts -> Rollout: the policy answers, and policy, reference and critic look at what it wrote (paper section 5).

A rollout is kept right-padded, prompt and response without a gap, so that one causal forward pass with lengths serves
generation's check, the reference, the critic and the update alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference.generate import Completion
from lc_jax.models.transformer import Model


@flax.struct.dataclass
class Episodes:
    """B prompts with their responses; T response positions, S slots that hold both; padding past the end.

    Arrays of numpy or jax: rollouts are kept on the host.
    """

    tokens: Int[Array | np.ndarray, "B S"]  # prompt then response, from slot 0
    prompt_lengths: Int[Array | np.ndarray, " B"]
    responses: Int[Array | np.ndarray, "B T"]
    lengths: Int[Array | np.ndarray, " B"]  # response tokens, the end-of-sequence token included; at least 1
    # Whether some of them may be cut to their own longest. Where statistics run over padding (masked=False) they may
    # not, and S >= prompt + T.
    trimmable: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def mask(self) -> Bool[Array, "B T"]:
        """True at real response tokens."""
        return jnp.arange(self.responses.shape[1]) < self.lengths[:, None]

    @property
    def spans(self) -> Int[Array, "B 2"]:
        """Slots that hold real tokens."""
        return jnp.stack([jnp.zeros_like(self.lengths), self.prompt_lengths + self.lengths], axis=1)

    def before_response(self, values: Float[Array, "B S *D"]) -> Float[Array, "B T *D"]:
        """`values` at the slot before each response token: where that token is predicted and its value estimated."""
        slots = self.prompt_lengths[:, None] - 1 + jnp.arange(self.responses.shape[1])
        slots = jnp.minimum(slots, values.shape[1] - 1)  # past the end anything will do, but it must be finite
        return jnp.take_along_axis(values, slots.reshape(*slots.shape, *(1,) * (values.ndim - 2)), axis=1)

    def groups(self, size: int) -> Iterator[Int[np.ndarray, " M"]]:
        """Rows of all episodes, `size` at a time, those of similar length together: little padding is computed."""
        return batches.group_by_length((self.prompt_lengths + self.lengths).tolist(), size)

    def take(self, rows: Int[np.ndarray, " M"]) -> Episodes:
        """Some of the episodes (host arrays), no wider than their longest needs."""
        tokens, starts, responses, lengths = (
            x[rows] for x in (self.tokens, self.prompt_lengths, self.responses, self.lengths)
        )
        if self.trimmable:
            tokens = tokens[:, : batches.round_up_to_multiple(int((starts + lengths).max()))]
            responses = responses[:, : batches.round_up_to_multiple(int(lengths.max()))]
        return Episodes(tokens, starts, responses, lengths, self.trimmable)


@flax.struct.dataclass
class Rollout:
    """Episodes and what the models say of each response token; log-probabilities of softmax(logits / temperature)."""

    episodes: Episodes
    critic_episodes: Episodes  # what the critic reads: the same, unless its prompt shows the true answer
    logprobs: Float[Array, "B T"]  # nats, the policy before this step's updates
    entropies: Float[Array, "B T"]  # nats
    ref_logprobs: Float[Array, "B T"]
    values: Float[Array, "B T"]  # zeros without a critic


def pack(
    prompts: Sequence[batches.Tokens], completions: Sequence[Completion], response_length: int | None = None
) -> Episodes:
    """Lays prompts and responses out side by side, as wide as the longest.

    An empty response stands as one padding token, so that its reward has a place.

    Args:
      response_length: T, where statistics run over padding as well (masked=False) and so depend on it.
    """
    responses = [c.tokens or [0] for c in completions]
    joined = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    trimmable = response_length is None
    width = batches.round_up_to_multiple(max(map(len, joined)))
    if response_length is None:
        response_length = batches.round_up_to_multiple(max(map(len, responses)))
    else:
        width = batches.bucket_length(max(map(len, prompts))) + response_length
    return Episodes(
        batches.pad(joined, width).tokens,
        np.asarray([len(p) for p in prompts], np.int32),
        batches.pad(responses, response_length).tokens,
        np.asarray([len(r) for r in responses], np.int32),
        trimmable,
    )


def policy_outputs(
    policy: Model, episodes: Episodes, temperature: Float[Array, ""]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of each response token (0 past its end) and the entropy where it was drawn, nats."""
    module = policy.bind()
    hidden = episodes.before_response(module(episodes.tokens, episodes.spans))
    logprobs, entropies = module.logprobs(hidden, episodes.responses, temperature)
    return jnp.where(episodes.mask, logprobs, 0.0), entropies


def critic_values(critic: Model, episodes: Episodes) -> Float[Array, "B T"]:
    """V_t, the scalar head before response token t."""
    return episodes.before_response(critic.bind()(episodes.tokens, episodes.spans))


@jax.jit
def forward(
    policy: Model,
    reference: Model,
    critic: Model | None,
    episodes: Episodes,
    critic_episodes: Episodes,
    temperature: Float[Array, ""],
) -> tuple[Float[Array, "B T"], Float[Array, "B T"], Float[Array, "B T"], Float[Array, "B T"]]:
    """The policy's log-probabilities and entropies, the reference's log-probabilities, the critic's values."""
    logprobs, entropies = policy_outputs(policy, episodes, temperature)
    ref_logprobs, _ = policy_outputs(reference, episodes, temperature)
    values = jnp.zeros_like(logprobs) if critic is None else critic_values(critic, critic_episodes)
    return logprobs, entropies, ref_logprobs, values


def look(
    policy: Model,
    reference: Model,
    critic: Model | None,
    episodes: Episodes,
    critic_episodes: Episodes,
    *,
    temperature: float,
    groups: Iterable[Int[np.ndarray, " M"]],
) -> Rollout:
    """Runs the three models over all episodes; returns a host (numpy) Rollout.

    Args:
      groups: rows that are computed together; each row is in one of them. Those of the update's micro-batches
        (`update.first_epoch`) keep shapes equal: the ratio before the first update is 1 in float32, and in bfloat16
        within the rounding noise, since the update's program, which has a gradient, may round at other places.
    """
    seen = np.zeros((4, *episodes.responses.shape), np.float32)

    def dispatch() -> Iterator[tuple[np.ndarray, tuple[jax.Array, ...]]]:
        for rows in groups:
            part = parallel.put_batch((episodes.take(rows), critic_episodes.take(rows)))
            yield rows, forward(policy, reference, critic, *part, jnp.float32(temperature))

    for rows, out in parallel.prefetch(dispatch()):
        for whole, values in zip(seen, map(parallel.to_host, out), strict=True):
            whole[rows, : values.shape[1]] = values
    return Rollout(episodes, critic_episodes, *seen)
