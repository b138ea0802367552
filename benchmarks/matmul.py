"""Products of bfloat16 matrices, forward and backward, against XLA's own choice (x @ kernel and its gradients)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import report
from lc_jax.kernels.matmul import matmul

TOKENS = 1024
SMALL, LARGE = (576, 1536), (4096, 11008)  # the feed-forward layers of SmolLM2-135M and of Llama 2 7B


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = report.arguments(__doc__ or "", argv)
    args.size = dataclasses.replace(args.size, dtype="bfloat16", batch=1, length=TOKENS)
    is_cpu = jax.default_backend() == "cpu"  # elsewhere both are the same
    rows, columns = SMALL if is_cpu else LARGE
    x = jax.random.normal(jax.random.key(0), (TOKENS, rows), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (rows, columns), jnp.bfloat16)
    by_out = jax.random.normal(jax.random.key(2), (TOKENS, columns), jnp.bfloat16)

    def forms(multiply: Any) -> dict[str, Any]:
        def gradient(argument: int) -> Any:
            return jax.jit(lambda *operands: jax.vjp(multiply, *operands[:2])[1](operands[2])[argument])

        return {"x @ kernel": jax.jit(lambda x, kernel, _: multiply(x, kernel))} | {
            "gradient of x": gradient(0),
            "gradient of kernel": gradient(1),
        }

    machine = report.Machine.measured(args.size, matmul)
    table = []
    peers = forms(jnp.matmul)
    for name, ours in forms(matmul).items():
        calls: dict[str, Any] = {
            "ours": lambda ours=ours: ours(x, kernel, by_out).block_until_ready(),
            "peer": (lambda peer=peers[name]: peer(x, kernel, by_out).block_until_ready()) if is_cpu else None,
        }
        seconds: Any = report.measure(calls, max(5, args.size.repeats))
        operations = 2.0 * TOKENS * rows * columns
        notes = {"shape": [TOKENS, rows, columns], "GFLOP/s": operations / seconds["ours"] / 1e9}
        floor = machine.floor(operations, x.nbytes + kernel.nbytes + by_out.nbytes)
        table.append(report.Row(name, seconds["ours"], "XLA", seconds["peer"], floor, notes))
    report.finish("matmul", args, machine, table)


if __name__ == "__main__":
    main()
