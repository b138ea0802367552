"""Episodes: prompts with their responses and all numbers of their tokens, in one flat record; a row is an episode.

Rows are right-padded, prompt and response without a gap, so that one causal forward pass with lengths serves the
policy, the reference, the critic and the update alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from lc_jax.data import batches
from lc_jax.inference.generate import Completion

# The fields with a real number for each response position.
PER_POSITION = ("old_logprobs", "entropies", "ref_logprobs", "old_values", "advantages", "returns", "kl_weights")


@flax.struct.dataclass
class Episodes:
    """B episodes of up to T response tokens, on the host (numpy) or, a micro-batch at a time, on the devices.

    `pack` makes them, `rollout.score_rollout` and `advantage.estimate` replace the zeros with numbers.
    """

    tokens: Int[Any, "B S"]  # prompt then response, from position 0
    responses: Int[Any, "B T"]  # the response again, from position 0
    prompt_lengths: Int[Any, " B"]
    lengths: Int[Any, " B"]  # response tokens, the end-of-sequence token included; at least 1
    critic_tokens: Int[Any, "B C"]  # what the critic reads: `tokens`, unless its prompt shows the true answer
    critic_prompt_lengths: Int[Any, " B"]
    old_logprobs: Float[Any, "B T"]  # nats, of softmax(logits / temperature) of the policy before this step's updates
    entropies: Float[Any, "B T"]  # nats, of the same distributions
    ref_logprobs: Float[Any, "B T"]  # nats, of the reference
    old_values: Float[Any, "B T"]  # the critic's, before this step's updates; zeros without a critic
    advantages: Float[Any, "B T"]  # whitened
    returns: Float[Any, "B T"]  # the critic's targets
    kl_weights: Float[Any, "B T"]  # of the KL term in the loss, where loss.kl puts one
    # Whether a part of the rows keeps the width of all: statistics over padding (masked=False) depend on it.
    pad_to_max: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def mask(self) -> Bool[Any, "B T"]:
        """True at real response tokens; a host array where the lengths are one."""
        return np.arange(self.responses.shape[1]) < self.lengths[:, None]

    def groups(self, size: int) -> Iterator[Int[np.ndarray, " M"]]:
        """Yields the indices of all rows, `size` rows of similar length at a time, so that padding is short."""
        return batches.group_by_length((self.prompt_lengths + self.lengths).tolist(), size)

    def minibatches(self, num_epochs: int, size: int, seed: int) -> Iterator[Int[np.ndarray, " M"]]:
        """Yields the indices of the rows of each optimiser step; they are shuffled again each epoch."""
        rng, total = np.random.default_rng(seed), len(self.lengths)
        for _ in range(num_epochs):
            order = rng.permutation(total)
            for first in range(0, total, size):
                yield order[first : first + size]

    def first_microbatches(self, size: int, microbatch_size: int, seed: int) -> Iterator[Int[np.ndarray, " M"]]:
        """Yields the indices of the rows of each micro-batch of the first epoch of `minibatches`, in its order."""
        for rows in self.minibatches(1, size, seed):
            for group in self.take(rows).groups(microbatch_size):
                yield rows[group]

    def take(self, rows: Int[np.ndarray, " M"]) -> Episodes:
        """Returns some of the episodes (host arrays), padded to the longest of them unless `pad_to_max`."""
        part = jax.tree.map(lambda x: x[rows], self)
        if self.pad_to_max:
            return part
        width, critic_width, length = (
            batches.round_up_to_multiple(int(ends.max()))
            for ends in (part.prompt_lengths + part.lengths, part.critic_prompt_lengths + part.lengths, part.lengths)
        )
        return dataclasses.replace(
            part,
            tokens=part.tokens[:, :width],
            responses=part.responses[:, :length],
            critic_tokens=part.critic_tokens[:, :critic_width],
            **{name: getattr(part, name)[:, :length] for name in PER_POSITION},
        )


def pack(
    prompts: Sequence[batches.Tokens],
    completions: Sequence[Completion],
    response_length: int | None = None,
    critic_prompts: Sequence[batches.Tokens] | None = None,
) -> Episodes:
    """Returns the episodes of prompts and their completions, padded to the longest, with zeros for all numbers.

    An empty response becomes one padding token, so that its reward has a position.

    Args:
      response_length: T, where statistics run over padding as well (masked=False) and so depend on it.
      critic_prompts: what the critic reads in place of the prompts.
    """
    responses = [c.tokens or [0] for c in completions]
    length = batches.round_up_to_multiple(max(map(len, responses))) if response_length is None else response_length

    def join(prompts: Sequence[batches.Tokens]) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, " B"]]:
        rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
        longest = max(map(len, prompts))
        width = (
            batches.round_up_to_multiple(max(map(len, rows)))
            if response_length is None
            else batches.bucket_length(longest) + length
        )
        return batches.pad(rows, width).tokens, np.asarray([len(prompt) for prompt in prompts], np.int32)

    tokens, prompt_lengths = join(prompts)
    critic_tokens, critic_prompt_lengths = join(critic_prompts) if critic_prompts else (tokens, prompt_lengths)
    zeros = np.zeros((len(responses), length), np.float32)
    return Episodes(
        tokens=tokens,
        responses=batches.pad(responses, length).tokens,
        prompt_lengths=prompt_lengths,
        lengths=np.asarray([len(response) for response in responses], np.int32),
        critic_tokens=critic_tokens,
        critic_prompt_lengths=critic_prompt_lengths,
        **dict.fromkeys(PER_POSITION, zeros),
        pad_to_max=response_length is not None,
    )
