"""Episodes with given numbers, for tests of arithmetic that no model computed."""

import numpy as np

from lc_jax.rl.batch import PER_POSITION, Episodes


def episodes_of(lengths, **numbers):
    """Episodes of prompts of two tokens and responses of these lengths; fields that are not given are zeros."""
    lengths = np.asarray(lengths, np.int32)
    width = next(iter(numbers.values())).shape[1]
    tokens, prompt_lengths = np.zeros((len(lengths), width + 2), np.int32), np.full(len(lengths), 2, np.int32)
    zeros = dict.fromkeys(PER_POSITION, np.zeros((len(lengths), width), np.float32))
    responses = np.zeros((len(lengths), width), np.int32)
    return Episodes(
        tokens, responses, prompt_lengths, lengths, tokens, prompt_lengths, **(zeros | numbers), pad_to_max=True
    )
