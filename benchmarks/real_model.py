"""A real chat model against transformers: SmolLM2-135M-Instruct from its GGUF file, equal numbers and speed.

Logits of all positions and greedy tokens are compared in float32, then generation and log-probabilities are timed in
turns, in float32 and in bfloat16, the same dtype in both: of questions after four examples, as in docs/real_model.md,
and of requests that have little in common. The last row is a training step of lc_jax in bfloat16 with
rematerialisation, as the profile calibrate-small trains, against one in float32 without.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import models, real_files, real_parity, report, score, sft_step
from lc_jax import parallel
from lc_jax.data import geonames
from lc_jax.data.questions import question_from
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference import score as scores
from lc_jax.models import hf
from lc_jax.models.transformer import Model
from lc_jax.tasks import split_questions

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


def questions(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Returns token ids of questions in which country a city is, each after the same four examples."""
    rows = geonames.rows("cities")  # by population
    cities = [question_from(row) for row in rows[:: len(rows) // (4 + count)]]
    template = split_questions.few_shot_prompt(cities[:4])
    prompts = [template.replace("{paragraph_generation_prompt}", city.prompt) for city in cities[4 : 4 + count]]
    return [tokenizer.encode_prompt(prompt) for prompt in prompts]


def measure(
    folder: Path, mesh: jax.sharding.Mesh, amount: Amount, kind: str, prompts: list[list[int]]
) -> list[report.Row]:
    """Returns rows of generation and scoring in float32 and in bfloat16.

    Args:
      kind: of the prompts, for the title of a row.
      prompts: of which the first are timed.

    Raises:
      ArithmeticError: logits, greedy tokens or log-probabilities in float32 are not the peer's.
    """
    model, network = _load(folder, mesh, "float32")
    completions, difference = real_parity.compare(model, network, prompts, amount.tokens)
    prompts, texts = prompts[: amount.batch], [p + c for p, c in zip(prompts, completions, strict=True)][: amount.batch]
    pairs = dict(scores.stream_logprobs(model, texts, batch_size=8)), score.peer_logprobs(network, texts, 8)
    error = max(float(np.abs(np.asarray(pairs[0][i].logprobs) - row).max()) for i, row in enumerate(pairs[1]))
    if error > real_parity.TOLERANCE:
        raise ArithmeticError(f"log-probabilities differ by {error:.3g}.")
    parity: dict[str, Any] = {
        "largest difference of logits": difference,
        "largest difference of log-probabilities": error,
        f"texts of {len(completions)} with the same {amount.tokens} greedy tokens": len(completions),
    }
    rows = []
    for dtype in ("float32", "bfloat16"):
        model, network = _load(folder, mesh, dtype)
        for name, times in _times(model, network, prompts, texts, amount).items():
            tokens = amount.batch * amount.response if name == "generate" else sum(map(len, texts))
            notes = {"tokens per second": tokens / times["ours"]} | (parity if dtype == "float32" else {})
            title = f"{name} {tokens} tokens, {kind}, {dtype}"
            rows.append(report.Row(title, times["ours"], "transformers", times["peer"], None, notes))
    return rows


def _load(folder: Path, mesh: jax.sharding.Mesh, dtype: str) -> tuple[Model, Any]:
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    return hf.load(folder, mesh, param_dtype=dtype, compute_dtype=dtype), network


def _times(
    model: Model,
    network: Any,
    prompts: Sequence[list[int]],
    texts: Sequence[list[int]],
    amount: Amount,
) -> dict[str, Any]:
    """Returns seconds of `generate` and `score`, ours and the peer's."""
    import torch

    torch.set_num_threads(models.fastest_threads(lambda: score.peer_logprobs(network, texts[:2], 2)))
    sampling = generate.Sampling(amount.response, temperature=0.0)
    return {
        "generate": report.measure(
            {
                "ours": lambda: generate.generate(model, prompts, sampling, seed=0, batch_size=len(prompts)),
                "peer": lambda: real_parity.peer_generate(network, prompts, amount.response),
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
        tokenizer = load_tokenizer(folder)
        rows = measure(folder, mesh, amount, "questions after examples", questions(tokenizer, amount.prompts))
        rows += measure(folder, mesh, amount, "separate requests", real_parity.requests(tokenizer, amount.prompts))
        trained = train(folder, mesh, amount)
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
