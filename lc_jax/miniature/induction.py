"""A start for tiny decoders: attention heads that look a word up where it stood before.

To find what followed an earlier occurrence of a word takes an induction circuit: one head tells each position which
token came before it, and in the next layer another matches its own token with what those positions were told (Olsson
et al., In-context Learning and Induction Heads, 2022). Large models form it early in their training; a model of one
million parameters that trains for minutes waits for it, and how long is chance. So it is written into the fresh
weights, and training goes on from there: nothing is frozen, and no fact of the world is in it.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lc_jax.models.params import named_arrays, param_specs, with_arrays
from lc_jax.models.transformer import Config, Model

CONSTANT = 0.7  # length of what all embeddings share, against what tells them apart; position heads look at it alone
POSITION, PLANES = 6.0, 5  # score that each of the fastest rotary planes gives to the place looked for
MATCH = 12.0  # score of a token with its like
COPY = 4.0  # how strongly the token that is found is written
QUIET = 0.05  # everything else writes so much less than usual, as it would drown the circuit
NOISE = 0.01  # standard deviation of what is added to its queries and keys, so that no two heads stay alike
REACH = 128  # tokens over which a match must hold: only rotary planes that turn less than one radian take part


def plant(model: Model, seed: int) -> Model:
    """A freshly initialised decoder of at least two layers and two heads, with two induction heads in its second layer.

    The first is told by head 0 of the first layer which token came before, and finds what followed the present token.
    The second is told by head 1 which token came two before, and finds what followed the present pair.

    Raises:
      ValueError: the model has grouped heads, or fewer than two layers or heads.
    """
    config = model.config
    if config.num_kv_heads != config.num_heads or min(config.num_layers, config.num_heads) < 2:
        raise ValueError("An induction circuit needs two layers and two heads, each with keys of its own.")
    values = {spec.path: np.array(array, np.float32) for spec, array in named_arrays(model)}
    _write(values, config, np.random.default_rng(seed))
    placed = {s.path: jax.device_put(values[s.path].astype(s.dtype), s.sharding) for s in param_specs(model)}
    return with_arrays(model, placed)


def _write(values: dict[tuple[str, ...], np.ndarray], config: Config, rng: np.random.Generator) -> None:
    """Changes the arrays in place. Norms are taken to scale every token to length sqrt(hidden_size)."""
    size, width, norm = config.hidden_size, config.head_dim, config.initializer_range * config.hidden_size**0.5
    turns = np.asarray(config.inverse_frequencies())
    planes = np.flatnonzero(turns * REACH < 1)
    slow = np.concatenate([planes, planes + len(turns), np.arange(config.rotary_dim, width)])

    # Orthogonal directions: of the mean, which LayerNorm takes away; of the constant; of what the two heads are told;
    # and those that are left to the embeddings.
    basis = np.linalg.qr(np.column_stack([np.ones(size), rng.standard_normal((size, size - 1))]))[0][:, 1:]
    constant, told, own = (
        basis[:, 0],
        np.split(basis[:, 1 : 1 + 2 * len(slow)], 2, axis=1),
        basis[:, 1 + 2 * len(slow) :],
    )
    name, copied = own[:, : len(slow)], own[:, -width:]
    table = values["embedding",]
    table[:] = table @ own @ own.T
    table *= norm / np.linalg.norm(table, axis=1, keepdims=True)
    table += CONSTANT * norm * constant

    q, k, v, o = _heads(values, config)
    for path, value in values.items():
        if path[:2] in (("layers", "o"), ("layers", "down")):
            value *= QUIET
    named = norm**2 * len(slow) / own.shape[1]  # squared length of a token's name
    gains = [(size / (norm**2 * (1 + CONSTANT**2) + extra)) ** 0.5 for extra in (0.0, 2 * named)]
    strength = (POSITION * width**0.5) ** 0.5 / (CONSTANT * norm * gains[0])
    match = (MATCH * width**0.5 / (gains[1] ** 2 * named)) ** 0.5
    for head, (asks, knows) in enumerate(((name, told[0]), (told[0], told[1]))):
        for weights in (q, k):
            weights[:2, :, head] = NOISE * rng.standard_normal((2, size, width))
        angles = (head + 1) * turns[:PLANES]
        k[0, :, head, :PLANES] += strength * constant[:, None]
        q[0, :, head, :PLANES] += strength * constant[:, None] * np.cos(angles)
        q[0, :, head, len(turns) : len(turns) + PLANES] -= strength * constant[:, None] * np.sin(angles)
        v[0, :, head], o[0, head] = 0.0, 0.0
        v[0, :, head, slow], o[0, head, slow] = name.T / gains[0], knows.T
        q[1, :, head, slow] += match * asks.T
        k[1, :, head, slow] += match * knows.T
        v[1, :, head], o[1, head] = copied / gains[1], COPY * copied.T


def _heads(values: dict[tuple[str, ...], np.ndarray], config: Config) -> tuple[Any, ...]:
    """Views of all layers' queries, keys, values [L, D, H, K] and outputs [L, H, K, D]."""
    lead, heads = (config.num_layers, config.hidden_size), (config.num_heads, config.head_dim)
    out = values["layers", "o", "kernel"].reshape(config.num_layers, *heads, config.hidden_size)
    if ("layers", "qkv", "kernel") in values:
        fused = values["layers", "qkv", "kernel"].reshape(*lead, config.num_heads, 3, config.head_dim)
        return fused[..., 0, :], fused[..., 1, :], fused[..., 2, :], out
    return *(values["layers", name, "kernel"].reshape(*lead, *heads) for name in "qkv"), out
