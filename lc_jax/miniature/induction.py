"""Initialisation of tiny decoders with an induction circuit.

An induction circuit predicts the token that followed an earlier occurrence of the present one: a head copies the
previous token into each position, and a head in the next layer matches its own token with these copies (Olsson et al.,
In-context Learning and Induction Heads, 2022). Large models learn it early in training; for a model of one million
parameters that trains for minutes, the time until then is long and random. So the circuit is written into the initial
weights. Nothing is frozen, and the circuit contains no fact of the world.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lc_jax.models.config import Config
from lc_jax.models.params import named_arrays, param_specs, with_arrays
from lc_jax.models.transformer import Model

FAMILIES = ("gpt_neox", "llama")  # into whose blocks the circuit fits
CONSTANT = 0.7  # length of the embeddings' shared component, relative to the rest; position heads attend to it alone
POSITION, PLANES = 6.0, 5  # score that each of the fastest rotary planes gives to the position before
MATCH = 12.0  # score of a token with an equal token
COPY = 4.0  # strength with which the copied token is written
QUIET = 0.05  # factor on all other outputs, which would mask the circuit
NOISE = 0.01  # standard deviation of noise in queries and keys, so that heads differ
REACH = 128  # tokens over which a match must hold: only rotary planes that turn less than one radian are used


def plant(model: Model, seed: int) -> Model:
    """Adds two induction heads to the second layer of an initialised decoder of at least two layers and two heads.

    The first uses the previous tokens that head 0 of the first layer copies, and predicts the token after the present
    one. The second uses those two before, from head 1, and predicts the token after the present pair.

    Raises:
      ValueError: the model has grouped heads, or fewer than two layers or heads.
    """
    config = model.config
    if config.num_kv_heads != config.num_heads or min(config.num_layers, config.num_heads) < 2:
        raise ValueError("An induction circuit needs two layers and two heads, each with keys of its own.")
    values = {spec.path: np.array(array, np.float32) for spec, array in named_arrays(model)}
    _write(values, config, np.random.default_rng(seed))
    arrays = {s.path: jax.device_put(values[s.path].astype(s.dtype), s.sharding) for s in param_specs(model)}
    return with_arrays(model, arrays)


def _write(values: dict[tuple[str, ...], np.ndarray], config: Config, rng: np.random.Generator) -> None:
    """Writes the circuit into the arrays, assuming that norms scale every token to length sqrt(hidden_size)."""
    size, width, norm = config.hidden_size, config.head_dim, config.initializer_range * config.hidden_size**0.5
    turns = np.asarray(config.rope.inverse_frequencies(config.rotary_dim))
    planes = np.flatnonzero(turns * REACH < 1)
    slow = np.concatenate([planes, planes + len(turns), np.arange(config.rotary_dim, width)])

    # Orthogonal directions: the mean, which LayerNorm removes; the constant; the copies for the two heads; and the
    # rest, for the embeddings.
    basis = np.linalg.qr(np.column_stack([np.ones(size), rng.standard_normal((size, size - 1))]))[0][:, 1:]
    constant, copies, own = (
        basis[:, 0],
        np.split(basis[:, 1 : 1 + 2 * len(slow)], 2, axis=1),
        basis[:, 1 + 2 * len(slow) :],
    )
    name, output = own[:, : len(slow)], own[:, -width:]
    table = values["embedding",]
    table[:] = table @ own @ own.T
    table *= norm / np.linalg.norm(table, axis=1, keepdims=True)
    table += CONSTANT * norm * constant

    q, k, v, o = _heads(values, config)
    for path, value in values.items():
        if path[:2] in (("layers", "o"), ("layers", "down")):
            value *= QUIET
    name_square = norm**2 * len(slow) / own.shape[1]  # squared length of a token's name
    gains = [(size / (norm**2 * (1 + CONSTANT**2) + extra)) ** 0.5 for extra in (0.0, 2 * name_square)]
    strength = (POSITION * width**0.5) ** 0.5 / (CONSTANT * norm * gains[0])
    match = (MATCH * width**0.5 / (gains[1] ** 2 * name_square)) ** 0.5
    for head, (query, key) in enumerate(((name, copies[0]), (copies[0], copies[1]))):
        for weights in (q, k):
            weights[:2, :, head] = NOISE * rng.standard_normal((2, size, width))
        angles = (head + 1) * turns[:PLANES]
        k[0, :, head, :PLANES] += strength * constant[:, None]
        q[0, :, head, :PLANES] += strength * constant[:, None] * np.cos(angles)
        q[0, :, head, len(turns) : len(turns) + PLANES] -= strength * constant[:, None] * np.sin(angles)
        v[0, :, head], o[0, head] = 0.0, 0.0
        v[0, :, head, slow], o[0, head, slow] = name.T / gains[0], key.T
        q[1, :, head, slow] += match * query.T
        k[1, :, head, slow] += match * key.T
        v[1, :, head], o[1, head] = output / gains[1], COPY * output.T


def _heads(values: dict[tuple[str, ...], np.ndarray], config: Config) -> tuple[Any, ...]:
    """Returns views of all layers' queries, keys, values [L, D, H, K] and outputs [L, H, K, D]."""
    lead, heads = (config.num_layers, config.hidden_size), (config.num_heads, config.head_dim)
    out = values["layers", "o", "kernel"].reshape(config.num_layers, *heads, config.hidden_size)
    if ("layers", "qkv", "kernel") in values:
        fused = values["layers", "qkv", "kernel"].reshape(*lead, config.num_heads, 3, config.head_dim)
        return fused[..., 0, :], fused[..., 1, :], fused[..., 2, :], out
    return *(values["layers", name, "kernel"].reshape(*lead, *heads) for name in "qkv"), out
