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

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference.generate import Completion
from lc_jax.kernels.attention import PADDING, SHARED_PREFIX

# The fields with a real number for each response position.
PER_POSITION = ("old_logprobs", "entropies", "ref_logprobs", "old_values", "advantages", "returns", "kl_weights")


# Of rows with several responses: attention over them is not fused, and its scores grow with the square of the width.
MAX_SHARED_WIDTH = 512


@flax.struct.dataclass
class SharedPrompts:
    """A micro-batch as R rows of one prompt and the N responses to it, so that each prompt is computed once.

    Episode r * N + n is the n-th response in row r.
    """

    tokens: Int[Any, "R W"]
    segment_ids: Int[Any, "R W"]  # of packed suffixes, as CausalLM takes them
    columns: Int[Any, "B T"]  # in its row, of the position before each response token


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
    prompt_ids: Int[Any, " B"] | None = (
        None  # equal for the samples of one prompt, which stay together; None: all differ
    )
    shared: SharedPrompts | None = None  # of a micro-batch, where its policy and reference compute each prompt once
    # Whether a part of the rows keeps the width of all: statistics over padding (masked=False) depend on it.
    pad_to_max: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def mask(self) -> Bool[Any, "B T"]:
        """True at real response tokens; a host array where the lengths are one."""
        return np.arange(self.responses.shape[1]) < self.lengths[:, None]

    def groups(self, size: int) -> Iterator[Int[np.ndarray, " M"]]:
        """Yields the indices of all rows, `size` of similar length at a time; samples of one prompt stay together."""
        lengths = self.prompt_lengths + self.lengths
        if self.prompt_ids is None:
            yield from batches.group_by_length(lengths.tolist(), size)
            return
        longest = np.zeros(self.prompt_ids.max() + 1, np.int64)
        np.maximum.at(longest, self.prompt_ids, lengths)
        order = np.lexsort((self.prompt_ids, longest[self.prompt_ids]))
        for first in range(0, len(order), size):
            yield order[first : first + size]

    def minibatches(self, num_epochs: int, size: int, seed: int) -> Iterator[Int[np.ndarray, " M"]]:
        """Yields the indices of the rows of each optimiser step; prompts are shuffled again each epoch."""
        rng, total = np.random.default_rng(seed), len(self.lengths)
        ids = np.arange(total) if self.prompt_ids is None else self.prompt_ids
        rows = [np.flatnonzero(ids == number) for number in np.unique(ids)]
        for _ in range(num_epochs):
            order = np.concatenate([rows[place] for place in rng.permutation(len(rows))])
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

    def microbatch(self, rows: Int[np.ndarray, " M"]) -> Episodes:
        """Returns some of the episodes (host arrays) for one forward pass, with shared prompts where that halves it."""
        part = self.take(rows)
        return dataclasses.replace(part, prompt_ids=None, shared=part.share_prompts())

    def read_by(self, *models: str) -> Episodes:
        """Returns a micro-batch without the tokens that none of some models ("policy", "critic") reads.

        A program is compiled for each width of its arguments, also of those that it does not read.
        """
        policy, critic, nothing = "policy" in models, "critic" in models, self.tokens[:, :0]
        return dataclasses.replace(
            self,
            tokens=self.tokens if policy and self.shared is None else nothing,
            shared=self.shared if policy else None,
            critic_tokens=self.critic_tokens if critic else nothing,
        )

    def share_prompts(self) -> SharedPrompts | None:
        """Returns the rows of shared prompts; None where they would not halve the positions that a device computes.

        None as well where rows would be wider than MAX_SHARED_WIDTH, or prompts have different numbers of responses.
        """
        count = len(self.lengths)
        if self.prompt_ids is None or self.pad_to_max:
            return None
        firsts = np.flatnonzero(np.diff(self.prompt_ids, prepend=-1))
        num_samples = count // len(firsts)
        if num_samples < 2 or firsts.tolist() != list(range(0, count, num_samples)):
            return None
        tokens, segment_ids, columns = [], [], np.zeros(self.responses.shape, np.int32)
        for first in firsts:
            end = int(self.prompt_lengths[first])
            row, ids = self.tokens[first, :end].tolist(), [SHARED_PREFIX] * end
            for number, i in enumerate(range(first, first + num_samples), 1):
                columns[i] = len(row) - 1 + np.arange(columns.shape[1])
                columns[i, 0] = end - 1  # the first token of each response is predicted at the end of the prompt
                row += self.responses[i, : self.lengths[i]].tolist()
                ids += [number] * int(self.lengths[i])
            tokens.append(row)
            segment_ids.append(ids)
        width = batches.round_up_to_multiple(max(map(len, tokens)))
        computed = parallel.rows_per_device(len(tokens)) * width
        if width > MAX_SHARED_WIDTH or 2 * computed > parallel.rows_per_device(count) * self.tokens.shape[1]:
            return None
        return SharedPrompts(
            batches.pad(tokens, width).tokens,
            batches.pad(segment_ids, width, pad_id=PADDING).tokens,
            np.minimum(columns, width - 1),  # past the end any number will do, but it must be finite
        )

    def pass_positions(self) -> tuple[int, int]:
        """Returns the positions that one forward pass of the policy computes, and how many of them are no padding."""
        if self.shared is not None:
            return self.shared.tokens.size, int(np.sum(self.shared.segment_ids != PADDING))
        return self.tokens.size, int(np.sum(self.prompt_lengths + self.lengths))


def pack(
    prompts: Sequence[batches.Tokens],
    completions: Sequence[Completion],
    response_length: int | None = None,
    critic_prompts: Sequence[batches.Tokens] | None = None,
    num_samples: int = 1,
) -> Episodes:
    """Returns the episodes of prompts and their completions, padded to the longest, with zeros for all numbers.

    An empty response becomes one padding token, so that its reward has a position.

    Args:
      response_length: T, where statistics run over padding as well (masked=False) and so depend on it.
      critic_prompts: what the critic reads in place of the prompts.
      num_samples: completions of a prompt, which comes so many times in a row.
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
    numbers: dict[str, Any] = dict.fromkeys(PER_POSITION, np.zeros((len(responses), length), np.float32))
    return Episodes(
        tokens=tokens,
        responses=batches.pad(responses, length).tokens,
        prompt_lengths=prompt_lengths,
        lengths=np.asarray([len(response) for response in responses], np.int32),
        critic_tokens=critic_tokens,
        critic_prompt_lengths=critic_prompt_lengths,
        **numbers,
        prompt_ids=np.arange(len(responses)) // num_samples if num_samples > 1 else None,
        pad_to_max=response_length is not None,
    )
