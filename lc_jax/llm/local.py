"""A checkpoint of one's own as an annotator: "local/<folder>". It is given the prompt as it stands."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax

from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference.finite import check_finite
from lc_jax.llm.store import key
from lc_jax.models import hf
from lc_jax.types import Reply, Request, Usage

CHUNK = 8  # batches that are sorted by length together


class Local:
    """Answers by generating. What it draws for a request depends on the request and the seed alone."""

    def __init__(self, folder: str, seed: int, batch_size: int, **precision: Any) -> None:
        self.name, self.folder, self.seed, self.batch_size = f"local/{folder}", folder, seed, batch_size
        self.tokenizer = load_tokenizer(folder)
        self.mesh = parallel.make_mesh()
        self.model = hf.load(folder, self.mesh, **precision)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies a few batches at a time; see lc_jax.llm.Annotator."""
        numbered = enumerate(requests)
        while chunk := list(itertools.islice(numbered, CHUNK * self.batch_size)):
            by_settings = sorted(chunk, key=lambda item: (item[1].temperature, item[1].max_tokens))
            for _, group in itertools.groupby(by_settings, lambda item: (item[1].temperature, item[1].max_tokens)):
                yield from self._answer(list(group))

    def _answer(self, numbered: Sequence[tuple[int, Request]]) -> list[tuple[int, Reply]]:
        """Replies to requests of one temperature and length."""
        asked = [request for _, request in numbered]
        prompts = [self.tokenizer.encode_prompt(request.prompt) for request in asked]
        sampling = generate.Sampling(
            asked[0].max_tokens,
            asked[0].temperature,
            eos_ids=self.tokenizer.stop_ids,
            pad_id=self.tokenizer.pad_id,
        )
        row_ids = [int(key(self.name, request)[:8], 16) for request in asked]
        with jax.set_mesh(self.mesh):
            completions = generate.generate(
                self.model, prompts, sampling, seed=self.seed, batch_size=self.batch_size, row_ids=row_ids
            )
        for (index, _), completion in zip(numbered, completions, strict=True):
            check_finite(completion.logprobs, self.name, f"request {index + 1}")
        pairs = zip(numbered, prompts, completions, strict=True)
        return [(index, self._read(len(prompt), completion)) for (index, _), prompt, completion in pairs]

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
    """The annotator "local/<folder>".

    Raises:
      FileNotFoundError, ValueError: there is no checkpoint or no tokenizer in the folder.
    """
    return Local(model, seed, batch_size, param_dtype=param_dtype, compute_dtype=compute_dtype)
