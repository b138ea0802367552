"""Attention of whole sequences and of one new token over a cache, against torch's scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models, report
from lc_jax.kernels.attention import RowMask, ScoreScaling, attention, decode_attention
from lc_jax.kernels.dispatch import attention_implementation


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """Causal attention in float64, [B, T, H, K]."""
    q, k, v = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3) * scale
    scores = np.where(np.tril(np.ones(scores.shape[2:], bool)), scores, -np.inf)
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return ((probs / probs.sum(axis=-1, keepdims=True)) @ v).swapaxes(1, 2)


def check(ours: np.ndarray, expected: np.ndarray, dtype: str) -> float:
    """The largest difference.

    Raises:
      ArithmeticError: it is beyond the rounding of `dtype`.
    """
    error = float(np.max(np.abs(np.asarray(ours, np.float64) - expected)))
    limit = {"float32": 2e-5, "bfloat16": 5e-2}[dtype]
    if not error <= limit:
        raise ArithmeticError(f"off by {error:.3g} from float64; {limit:.3g} is rounding in {dtype}.")
    return error


def peers(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> dict[str, Callable[[], Any] | None]:
    """The same three things by torch."""
    device = models.torch_device()
    if device is None:
        return {"forward": None, "backward": None, "decode": None}
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    dtype = getattr(torch, str(q.dtype))
    q, k, v = (
        torch.tensor(np.asarray(x, np.float32), dtype=dtype, device=device).transpose(1, 2).contiguous()
        for x in (q, k, v)
    )

    def forward() -> Any:
        with torch.no_grad():
            return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)

    def backward() -> Any:
        parts = [x.detach().requires_grad_() for x in (q, k, v)]
        out = scaled_dot_product_attention(*parts, is_causal=True, scale=scale)
        return torch.autograd.grad(out.sum(), parts)

    def decode() -> Any:
        with torch.no_grad():
            return scaled_dot_product_attention(q[:, :, -1:], k, v, scale=scale)

    functions = {"forward": forward, "backward": backward, "decode": decode}
    return {name: models.synchronised(function) for name, function in functions.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = report.arguments(__doc__ or "", argv)
    size, config = args.size, models.config_of(args.size)
    batch, length = max(1, size.batch // 16), size.length
    shape = (batch, length, config.num_heads, config.head_dim)
    q, k, v = (jax.random.normal(jax.random.key(i), shape, size.dtype) for i in range(3))
    scale = config.head_dim**-0.5
    mask = RowMask(ends=jnp.full(batch, length, jnp.int32))
    # The cache as generation keeps it, the query the last token's.
    keys, values, rows = k.swapaxes(1, 2), v.swapaxes(1, 2), RowMask(jnp.zeros(batch, jnp.int32))
    last_position, scaling = jnp.int32(length - 1), ScoreScaling(scale)
    decode = jax.jit(lambda q, keys, values: decode_attention(q, keys, values, rows, last_position, scaling))
    expected = exact(*(np.asarray(x[:1], np.float64) for x in (q, k, v)), scale)
    ours: dict[tuple[str, str], Callable[[], Any]] = {}
    errors: dict[tuple[str, str], float] = {}
    # The implementation that is chosen here and the plain one, so that the choice can be judged.
    for name in dict.fromkeys((attention_implementation("auto", q.dtype, config.head_dim), "portable")):
        forward = jax.jit(lambda q, k, v, name=name: attention(q, k, v, mask, scaling, name))
        backward = jax.jit(jax.grad(lambda *x, f=forward: f(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2)))
        ours[name, "forward"] = lambda f=forward: jax.block_until_ready(f(q, k, v))
        ours[name, "backward"] = lambda f=backward: jax.block_until_ready(f(q, k, v))
        errors[name, "forward"] = check(np.asarray(forward(q, k, v))[:1], expected, size.dtype)
    ours["portable", "decode"] = lambda: jax.block_until_ready(decode(q[:, -1], keys, values))
    last = np.asarray(decode(q[:, -1], keys, values))[:1]
    errors["portable", "decode"] = check(last, expected[:, -1], size.dtype)
    machine, theirs = report.Machine.measured(size), peers(q, k, v, scale)
    causal = 2.0 * batch * config.num_heads * config.head_dim * length**2  # half of the 4 of all pairs
    num_bytes = 4.0 * q.nbytes
    floors = {
        "forward": machine.floor(causal, num_bytes),
        "backward": machine.floor(3.5 * causal, 2 * num_bytes),
        "decode": machine.floor(4.0 * batch * config.num_heads * config.head_dim * length, num_bytes / 2),
    }
    rows = []
    for (implementation, name), call in ours.items():
        seconds: Any = report.measure({"ours": call, "peer": theirs[name]}, size.repeats)
        notes = (
            {"largest error against float64": errors[implementation, name]} if (implementation, name) in errors else {}
        )
        rows.append(
            report.Row(f"{name} ({implementation})", seconds["ours"], "torch", seconds["peer"], floors[name], notes)
        )
    report.finish("attention", args, machine, rows)


if __name__ == "__main__":
    main()
