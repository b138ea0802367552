"""Texts from a checkpoint folder: prompts in, decoded completions out as they are finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference.finite import check_finite
from lc_jax.models import folders, hf
from lc_jax.types import PromptText


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Settings of text generation."""

    max_new_tokens: int
    temperature: float  # 0 = greedy
    seed: int
    batch_size: int
    top_p: float = 1.0  # 1 = any token
    one_line: bool = False  # a text ends at its first line break, which is not part of it

    def sampling(self, tokenizer: Tokenizer) -> generate.Sampling:
        """Returns the sampling settings with the tokenizer's padding token and the tokens that end a text."""
        ends = (*tokenizer.stop_ids, *(tokenizer.line_break_ids() if self.one_line else ()))
        return generate.Sampling(
            self.max_new_tokens, self.temperature, self.top_p, eos_ids=ends, pad_id=tokenizer.pad_id
        )


def write(
    folder: str,
    mesh: jax.sharding.Mesh,
    prompts: Sequence[PromptText],
    decoding: Decoding,
    precision: Mapping[str, Any],
    row_ids: Sequence[int] | None = None,
) -> Iterator[tuple[int, str, bool, float]]:
    """Yields (index into `prompts`, text, whether it is finished, log-probability), batch by batch.

    The log-probability is the sum over the text's tokens, the one that ends it included, in nats; of a greedy text at
    temperature 1. Without prompts no model is loaded.

    Args:
      precision: what `hf.load` takes.
      row_ids: names the rows for the random numbers; see `generate.stream`.

    Raises:
      FileNotFoundError, ValueError: there is no checkpoint or no tokenizer in `folder`.
      FloatingPointError: the model computes numbers that are not finite.
    """
    folders.check(folder)
    if not prompts:
        return
    tokenizer = load_tokenizer(folder)
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    model = hf.load(folder, mesh, **precision)
    settings: dict[str, Any] = {"seed": decoding.seed, "batch_size": decoding.batch_size, "row_ids": row_ids}
    stream = generate.stream(model, encoded, decoding.sampling(tokenizer), **settings)
    for place, completion in tqdm(stream, total=len(encoded), unit="text", disable=None):
        check_finite(completion.logprobs, folder, f"text {place + 1} of {len(encoded)}")
        text = tokenizer.decode(completion.tokens)
        if decoding.one_line:
            text = text.partition("\n")[0]
        yield place, text, completion.finished, sum(completion.logprobs)
