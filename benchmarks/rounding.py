"""Measures how far bfloat16 and int8 are from float32, and sampling from scoring.

  python -m benchmarks.rounding         two tables, of the miniature's models and of random Llamas of 30 layers

The first table: 32 responses of up to 32 tokens at temperature 1, sampled over a cache and then scored in one pass;
`mean` and `99%` are of |log-probability when sampled - when scored| of a token, `noise` is
`consistency.rounding_noise`, all in nats. The second: 32 responses of up to 48 tokens that the model samples in
float32, scored in float32 and in the precision of the row; KL is from the distribution of float32 to the row's, `same`
is how often both have the same most probable token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.miniature.world import build
from lc_jax.models import folders, hf, registry
from lc_jax.models.config import Lora
from lc_jax.models.transformer import Model
from lc_jax.rl import batch, consistency, rollout
from lc_jax.text_table import table

COUNT, RANDOM_LAYERS = 32, 30
MODELS = {"Llama": base.LLAMA, "GPT-NeoX": base.GPT_NEOX}


def prompts() -> list[list[int]]:
    """Prompts of the miniature world, of different cities."""
    tokenizer = load_tokenizer(base.LLAMA)
    subjects = build().subjects[:COUNT]
    return [tokenizer.encode_prompt(f"Write about the country of {subject.description}.") for subject in subjects]


def samples(policy: Model, num_tokens: int) -> list[generate.Completion]:
    """One response to each prompt, at temperature 1."""
    sampling = generate.Sampling(num_tokens, 1.0, eos_ids=policy.config.eos_ids)
    return generate.generate(policy, prompts(), sampling, seed=0, batch_size=COUNT)


def gap(policy: Model) -> list[str]:
    """Cells of the first table."""
    completions = samples(policy, 32)
    episodes = batch.pack(prompts(), completions)
    episodes = rollout.score_rollout(
        policy, policy, None, episodes, temperature=1.0, groups=list(episodes.groups(COUNT))
    )
    measured = consistency.SamplingGap.of(episodes, completions)
    noise = consistency.rounding_noise(policy, episodes, COUNT, 1.0)
    return [f"{x:.2g}" for x in (measured.mean, measured.p99, noise)]


def policies(mesh: jax.sharding.Mesh) -> Iterator[tuple[str, str, Model]]:
    """Rows of the first table: name, precision, policy."""
    for name, path in MODELS.items():
        for dtype in ("float32", "bfloat16"):
            yield f"miniature's {name}", dtype, hf.load(path, mesh, compute_dtype=dtype)
    for deviation in (0.02, 0.08, 0.3):
        config = folders.config_of(base.LLAMA, compute_dtype="bfloat16")[0]
        deep = dataclasses.replace(config, num_layers=RANDOM_LAYERS, initializer_range=deviation)
        model = registry.initialize(deep, jax.random.key(0), mesh, "causal")
        yield f"random Llama, {RANDOM_LAYERS} layers, initializer_range {deviation}", "bfloat16", model


@jax.jit
def log_distributions(model: Model, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """[B, T, V] float32."""
    module = model.bind()
    return jax.nn.log_softmax(module.logits(module(tokens, lengths)).astype(jnp.float32))


def error(exact: Model, rounded: Model, texts: list[list[int]], starts: list[int]) -> list[str]:
    """Cells of the second table, over the tokens of each text from its start on."""
    width = max(map(len, texts))
    tokens = np.array([text + [0] * (width - len(text)) for text in texts], np.int32)
    lengths = np.array(list(map(len, texts)), np.int32)
    p, q = (np.asarray(log_distributions(model, tokens, lengths))[:, :-1] for model in (exact, rounded))
    place = np.arange(1, width)
    real = (place >= np.array(starts)[:, None]) & (place < lengths[:, None])
    following = tokens[:, 1:, None]
    difference = np.abs(np.take_along_axis(p, following, 2) - np.take_along_axis(q, following, 2))[real].mean()
    divergence = (np.exp(p) * (p - q)).sum(axis=2)[real].mean()
    same = (p.argmax(axis=2) == q.argmax(axis=2))[real].mean()
    return [f"{difference:.4f}", f"{divergence:.1e}", f"{same:.1%}"]


def main() -> None:
    """Prints both tables."""
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        rows = [["model", "precision", "mean", "99%", "noise"]]
        rows += [[name, dtype, *gap(policy)] for name, dtype, policy in policies(mesh)]
        print(table(rows, align="llr"), end="\n\n")
        rows = [["model", "precision", "|difference|", "KL", "same"]]
        for name, path in MODELS.items():
            exact = hf.load(path, mesh)
            texts = [prompt + list(c.tokens) for prompt, c in zip(prompts(), samples(exact, 48), strict=True)]
            starts = list(map(len, prompts()))
            for precision, fields in (
                ("int8", {"lora": Lora(1, 1.0, int8=True)}),
                ("bfloat16", {"compute_dtype": "bfloat16"}),
            ):
                rows.append([name, precision, *error(exact, hf.load(path, mesh, **fields), texts, starts)])
        print(table(rows, align="llr"))


if __name__ == "__main__":
    main()
