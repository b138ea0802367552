"""A checkpoint of one's own as an annotator: "local/<folder>". It is given the prompt as it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax

from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference.finite import check_finite
from lc_jax.llm.concurrency import in_batches
from lc_jax.llm.store import key
from lc_jax.models import hf
from lc_jax.types import Reply, Request, Usage

CHUNK = 8  # batches that are sorted by length together


class Local:
    """Answers by generating, many concurrent requests at a time.

    What it draws for a request depends on the request and the seed alone.
    """

    def __init__(self, folder: str, seed: int, batch_size: int, **precision: Any) -> None:
        self.name, self.seed, self.batch_size = f"local/{folder}", seed, batch_size
        self.tokenizer = load_tokenizer(folder)
        self.mesh = parallel.make_mesh()
        self.model = hf.load(folder, self.mesh, **precision)
        self.concurrency = CHUNK * batch_size
        self.ask = in_batches(self._answer, self.concurrency)

    async def close(self) -> None:
        """Does nothing: there are no connections."""

    async def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns replies in the order of `requests`, generated in groups of one temperature and length."""
        order = sorted(range(len(requests)), key=lambda i: (requests[i].temperature, requests[i].max_tokens))
        groups = itertools.groupby(order, lambda i: (requests[i].temperature, requests[i].max_tokens))
        replies: dict[int, Reply] = {}
        for _, group in groups:
            places = list(group)
            replies |= zip(places, self._generate([requests[i] for i in places]), strict=True)
        return [replies[i] for i in range(len(requests))]

    def _generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns replies to requests of one temperature and length."""
        prompts = [self.tokenizer.encode_prompt(request.prompt) for request in requests]
        sampling = generate.Sampling(
            requests[0].max_tokens,
            requests[0].temperature,
            eos_ids=self.tokenizer.stop_ids,
            pad_id=self.tokenizer.pad_id,
        )
        row_ids = [int(key(self.name, request)[:8], 16) for request in requests]
        with jax.set_mesh(self.mesh):
            completions = list(
                generate.generate(
                    self.model, prompts, sampling, seed=self.seed, batch_size=self.batch_size, row_ids=row_ids
                )
            )
        for number, completion in enumerate(completions, 1):
            check_finite(completion.logprobs, self.name, f"request {number}")
        return [self._read(len(prompt), completion) for prompt, completion in zip(prompts, completions, strict=True)]

    def _read(self, length: int, completion: generate.Completion) -> Reply:
        text, usage = self.tokenizer.decode(completion.tokens).strip(), Usage(length, len(completion.tokens))
        if not completion.finished:
            return Reply("truncated", text, "max_tokens reached", usage)
        return Reply("ok", text, "", usage) if text else Reply("invalid", text, "the reply is empty", usage)


def load(
    model: str,
    *,
    seed: int = 0,
    batch_size: int = 64,
    param_dtype: str = "bfloat16",
    compute_dtype: str = "bfloat16",
) -> Local:
    """Returns the annotator "local/<folder>".

    Raises:
      FileNotFoundError, ValueError: there is no checkpoint or no tokenizer in the folder.
    """
    return Local(model, seed, batch_size, param_dtype=param_dtype, compute_dtype=compute_dtype)
