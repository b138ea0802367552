"""Checks of a reward model or critic in the precision that it is trained in: head, padding, loss, files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lc_jax import parallel
from lc_jax.data.tokenizer import Tokenizer
from lc_jax.inference import generate, score
from lc_jax.models import hf
from lc_jax.models.transformer import Model
from lc_jax.rl import batch, reward_model, rollout, verify
from lc_jax.rl.verify import Measured, Result, largest
from lc_jax.rl.verify_models import forward, padding
from lc_jax.types import Example


def with_random_head(model: Model) -> Model:
    """Returns the model with random numbers in a head of zeros, such as that of a fresh critic."""

    def changed(path: tuple, leaf: jax.Array) -> jax.Array:
        names = [str(getattr(key, "key", "")) for key in path]
        if "reward_head" not in names or np.asarray(leaf).any():
            return leaf
        return jax.device_put(jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype), leaf.sharding)

    return model.with_params(jax.tree_util.tree_map_with_path(changed, model.params))


def head_position(model: Model, prompts: Sequence[Sequence[int]]) -> Measured:
    """Compares rewards with the head at the last token, and values with it before each response token; relative."""
    model = with_random_head(model)
    alone = [_values(model, p) for p in prompts]
    scale = largest([1.0, *map(np.abs, alone)])
    rewards = dict(score.stream_rewards(model, prompts, batch_size=len(prompts)))
    group_rewards = [float(values[-1]) for values in score.group_rewards(model, [[p] for p in prompts], batch_size=4)]
    errors: list[Any] = [abs(numbers[i] - a[-1]) for numbers in (rewards, group_rewards) for i, a in enumerate(alone)]
    cut = [max(len(p) // 2, 1) for p in prompts]
    completions = [generate.Completion(list(p[c:]), [], True) for p, c in zip(prompts, cut, strict=True)]
    episodes = batch.pack([p[:c] for p, c in zip(prompts, cut, strict=True)], completions)
    values = np.asarray(jax.jit(rollout.critic_values)(model, parallel.put_batch(episodes)))
    for row, (whole, c) in enumerate(zip(alone, cut, strict=True)):
        errors.append(np.abs(values[row, : len(whole) - c] - whole[c - 1 : -1]))
    return Measured(largest(errors) / scale, _limit(model))


def _values(model: Model, tokens: Sequence[int]) -> np.ndarray:
    """Returns the head at each token of one unpadded row."""
    return np.asarray(forward(model, jnp.asarray([tokens]), jnp.asarray([len(tokens)])))[0]


def _limit(model: Model) -> float:
    """Returns how far two correct passes may be apart, relative to the largest value."""
    return 1e-3 if jnp.dtype(model.config.compute_dtype) == jnp.float32 else 0.1


def label_loss(model: Model, sequences: Sequence[Sequence[int]], labels: Sequence[float]) -> Measured:
    """Compares the loss of training with -y log p - (1 - y) log(1 - p) of the rewards, in nats for each row.

    The batch has a row of padding, which must not count.
    """
    model = with_random_head(model)
    batch = reward_model.dataset(sequences, labels).collate(np.asarray([*range(len(sequences)), -1]))
    sums = jax.device_get(jax.jit(reward_model.loss_fn)(model, batch))
    if sums["weight"] != len(sequences):
        raise ValueError(f"the loss counts {sums['weight']:.0f} of {len(sequences)} rows")
    rewards = dict(score.stream_rewards(model, sequences, batch_size=len(sequences)))
    logits, y = np.asarray([rewards[i] for i in range(len(sequences))], np.float64), np.asarray(labels)
    expected = (y * np.log1p(np.exp(-logits)) + (1 - y) * np.log1p(np.exp(logits))).mean()
    error = abs(float(sums["loss"]) / len(sequences) - expected)
    return Measured(error, 0.1 * _limit(model) * largest([1.0, np.abs(logits)]), " nats a row")


def exported(model: Model, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], mesh: jax.sharding.Mesh) -> Measured:
    """Compares, to the bit, the rewards of a model with those of the same model saved and loaded again."""
    model = with_random_head(model)
    settings = {name: getattr(model.config, name) for name in ("param_dtype", "compute_dtype", "lora")}
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "model", model, tokenizer=tokenizer)
        again = hf.load(Path(folder) / "model", mesh, kind="scalar", **settings)
    one, other = (dict(score.stream_rewards(m, prompts, batch_size=len(prompts))) for m in (model, again))
    return Measured(largest(abs(one[i] - other[i]) for i in one), 0.0)


def scalar(model: Model, prompts: Sequence[Sequence[int]], name: str) -> list[Result]:
    """Makes the checks of a reward model or critic that only reads."""
    checks: dict[str, Callable[[], Measured]] = {
        f"{name}: the head's position": lambda: head_position(model, prompts),
        f"{name}: tokens in padding change nothing": lambda: padding(with_random_head(model), prompts),
    }
    return [Result.of(label, check) for label, check in checks.items()]


def trained(model: Model, tokenizer: Tokenizer, examples: Sequence[Example], mesh: jax.sharding.Mesh) -> list[Result]:
    """Makes the checks of a reward model that is trained on prompts with labels."""
    prompts = [tokenizer.encode_prompt(example.prompt) for example in examples]
    labels = [example.label for example in examples]
    checks: dict[str, Callable[[], Measured]] = {
        "the begin token": lambda: verify.special_tokens(tokenizer, examples[0].prompt, None),
        "the loss is the cross-entropy of the labels": lambda: label_loss(model, prompts, labels),
        "saved and loaded again, to the bit": lambda: exported(model, tokenizer, prompts, mesh),
    }
    return scalar(model, prompts, "reward model") + [Result.of(f"reward model: {n}", c) for n, c in checks.items()]
