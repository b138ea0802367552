"""Reading skill of a base model of the miniature world, on new made-up paragraphs with one question each.

  python -m benchmarks.reading                    the Llama that ships with the package
  python -m benchmarks.reading CHECKPOINT         another base model of that world, as configs/pretrain.py makes them

`right` is the share of answers whose every token is the model's first choice, given the tokens before it. Of a forecast
only the first percentage counts, for an answer that the paragraph names or for one that it does not (0%); `squared
error` is of the mean forecast, to be held against the variance of the truth.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.data.examples import encode_sft
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.miniature import corpus
from lc_jax.miniature.world import build
from lc_jax.models import hf
from lc_jax.models.transformer import Model
from lc_jax.types import Example

LENGTH, BATCH, NUM_DOCUMENTS, SEED = 128, 64, 1000, 77
PERCENTAGES = np.arange(0, 101, 10)


def task_of(prompt: str, answer: str) -> str:
    """Returns the task of a document."""
    for task in ("Answers:", "Quote:"):
        if prompt.endswith(task):
            return f"{task[:-1].lower()}, none there" if answer == f" {corpus.NO_ANSWER}" else task[:-1].lower()
    paragraph, question = prompt.rsplit("\n", 1)
    return "forecast, named" if question.split("? ")[1] in paragraph else "forecast, absent"


@jax.jit
def logits(model: Model, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """[B, T, V]; small models only."""
    module = model.bind()
    return module.logits(module(tokens, lengths))


def main(path: str) -> None:
    """Prints a table for the checkpoint at `path`.

    Raises:
      FileNotFoundError: there is no folder.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; give a base model of the miniature world: {base.LLAMA}, {base.GPT_NEOX}, or one "
            "made with `python -m lc_jax.main --config=configs/pretrain.py:llama`."
        )
    mesh, tokenizer = parallel.make_mesh(), load_tokenizer(path)
    stream = corpus.documents(build(), np.random.default_rng(SEED), (0, 0, 1))
    pairs = [(prompt, text.split("\n")[0]) for prompt, text in itertools.islice(stream, NUM_DOCUMENTS)]
    pieces = [tokenizer.hf.convert_tokens_to_ids(f"Ġ({percent}%)") for percent in PERCENTAGES]
    encoded = [(pair, encode_sft(tokenizer, Example("", *pair), LENGTH)) for pair in pairs]
    examples = [(pair, e) for pair, e in encoded if e is not None]
    right: dict[str, list[bool]] = defaultdict(list)
    errors: dict[str, list[float]] = defaultdict(list)
    truths: list[float] = []
    with jax.set_mesh(mesh):
        model = hf.load(path, mesh)
        for first in range(0, len(examples), BATCH):
            part = examples[first : first + BATCH]
            padded = batches.pad([e.tokens for _, e in part], LENGTH)
            outputs = np.asarray(logits(model, jnp.asarray(padded.tokens), jnp.asarray(padded.lengths)))
            for row, ((prompt, text), e) in enumerate(part):
                task, place = task_of(prompt, text), slice(e.num_source - 1, len(e.tokens) - 2)
                if not task.startswith("forecast"):
                    targets = np.asarray(e.tokens[e.num_source : -1])
                    right[task].append(bool((outputs[row, place].argmax(-1) == targets).all()))
                    continue
                match: Any = re.match(r" \((\d+)%", text)
                probs = np.asarray(jax.nn.softmax(outputs[row, e.num_source - 1, pieces]))
                right[task].append(PERCENTAGES[probs.argmax()] == int(match[1]))
                errors[task].append(float((probs @ PERCENTAGES - int(match[1])) / 100) ** 2)
                truths.append(int(match[1]) / 100)
    for task in sorted(right):
        error = f"  squared error {np.mean(errors[task]):.3f}" if task in errors else ""
        print(f"{task:22s} {len(right[task]):4d}  right {np.mean(right[task]):.2f}{error}")
    print(f"variance of the percentages asked for: {np.var(truths):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=base.LLAMA)
    try:
        main(parser.parse_args().checkpoint)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
