"""Episodes and outcomes with given numbers, for tests of arithmetic that no model computed."""

import numpy as np

from lc_jax.rl.batch import PER_POSITION, Episodes
from lc_jax.rl.outcomes import Outcomes


def outcomes_of(forecasts, clusters=None, groups=None, rates=None):
    """Outcomes of forecasts; by default no answer is true, none equivalent to another, and each question is new."""
    count, num_answers = forecasts.answer_mask.shape
    if clusters is None:
        clusters = np.tile(np.arange(1, num_answers + 1), (count, 1))
    groups = np.arange(count) if groups is None else groups
    rates = np.full(count, np.nan) if rates is None else rates
    return Outcomes(np.asarray(clusters), np.asarray(groups), np.asarray(rates, np.float32))


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
