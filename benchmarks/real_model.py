"""A real chat model against transformers: SmolLM2-135M-Instruct from its GGUF file, equal numbers and speed in float32.

Logits of all positions and greedy tokens are compared, then generation and log-probabilities are timed in turns. The
last row is a training step of lc_jax in bfloat16 with rematerialisation, as the profile calibrate-small trains, against
one in float32 without.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import models, real_files, real_parity, report, score, sft_step
from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference import score as scores
from lc_jax.models import hf

MODEL = "smollm2-135m"


@dataclasses.dataclass(frozen=True)
class Amount:
    """Numbers of prompts and tokens that are compared and timed."""

    prompts: int  # of which the greedy tokens are compared
    tokens: int  # of each
    batch: int  # prompts that are timed
    response: int  # tokens of each
    length: int  # tokens of each of `batch` texts that are trained on
    repeats: int


SMALL, FULL = Amount(4, 8, 4, 8, 8, 1), Amount(50, 64, 16, 32, 64, 3)
PRECISIONS = {"ours": {"compute_dtype": "bfloat16", "remat": "full"}, "peer": real_parity.FLOAT32 | {"remat": "none"}}


def measure(folder: Path, mesh: jax.sharding.Mesh, amount: Amount) -> dict[str, Any]:
    """Returns seconds of generation and scoring, ours and the peer's, with `difference` of logits and `of` texts.

    Raises:
      ArithmeticError: logits or greedy tokens are not the peer's.
    """
    import torch
    import transformers

    model, tokenizer = hf.load(folder, mesh, **real_parity.FLOAT32), load_tokenizer(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = real_parity.requests(tokenizer, amount.prompts)

    def ours(prompts: Sequence[list[int]], response: int) -> list[list[int]]:
        sampling = generate.Sampling(response, temperature=0.0)
        completions = generate.generate(
            model, prompts, sampling, seed=0, batch_size=min(len(prompts), 2 * amount.batch)
        )
        return [completion.tokens for completion in completions]

    completions, difference = real_parity.compare(model, network, prompts, amount.tokens)
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    some, texts = prompts[: amount.batch], texts[: amount.batch]
    torch.set_num_threads(models.fastest_threads(lambda: score.peer_logprobs(network, texts[:2], 2)))
    times = {
        "generate": report.measure(
            {
                "ours": lambda: ours(some, amount.response),
                "peer": lambda: real_parity.peer_generate(network, some, amount.response),
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
    return {"times": times, "tokens": tokens, "difference": difference, "of": len(prompts)}


def train(folder: Path, mesh: jax.sharding.Mesh, amount: Amount) -> dict[str, Any]:
    """Returns seconds of a training step in bfloat16 ("ours") and in float32 ("peer")."""
    trained = {name: hf.load(folder, mesh, **precision) for name, precision in PRECISIONS.items()}
    tokens = models.random_tokens(trained["ours"].config, amount.batch, amount.length)
    steps = {name: sft_step.ours(trained.pop(name), tokens) for name in PRECISIONS}
    return report.measure(steps, amount.repeats)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = report.arguments(__doc__ or "", argv)
    amount, mesh = FULL if args.full else SMALL, parallel.make_mesh()
    args.size = dataclasses.replace(
        args.size,
        model=real_files.MODELS[MODEL].title,
        batch=amount.batch,
        response=amount.response,
        repeats=amount.repeats,
    )
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        real_parity.convert(MODEL, folder, mesh)
        result = measure(folder, mesh, amount)
        trained = train(folder, mesh, amount)
    notes = {
        "largest difference of logits": result["difference"],
        f"texts of {result['of']} with the same {amount.tokens} greedy tokens": result["of"],
    }
    rows = [
        report.Row(
            f"{name} {result['tokens'][name]} tokens", times["ours"], "transformers", times["peer"], None,
            {"tokens per second": result["tokens"][name] / times["ours"]} | notes,
        )
        for name, times in result["times"].items()
    ]  # fmt: skip
    tokens = amount.batch * amount.length
    rows.append(
        report.Row(
            f"train {tokens} tokens, bfloat16", trained["ours"], "float32", trained["peer"], None,
            {"tokens per second": tokens / trained["ours"]},
        )
    )  # fmt: skip
    report.finish("real_model", args, None, rows)


if __name__ == "__main__":
    main()
