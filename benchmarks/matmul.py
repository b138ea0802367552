"""Products of bfloat16 matrices, forward and backward, against XLA's own choice (x @ kernel and its gradients).

The last row has as few rows of x as a step of generation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import report
from lc_jax.kernels.matmul import matmul, matmul_by_columns

TOKENS, FEW = 1024, 16
SMALL, LARGE = (576, 1536), (4096, 11008)  # the feed-forward layers of SmolLM2-135M and of Llama 2 7B


def _run(function: Any, operands: tuple[jax.Array, ...]) -> None:
    function(*operands).block_until_ready()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = report.arguments(__doc__ or "", argv)
    args.size = dataclasses.replace(args.size, dtype="bfloat16", batch=1, length=TOKENS)
    is_cpu = jax.default_backend() == "cpu"  # elsewhere both are the same
    rows, columns = SMALL if is_cpu else LARGE
    x = jax.random.normal(jax.random.key(0), (TOKENS, rows), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (rows, columns), jnp.bfloat16)
    by_out = jax.random.normal(jax.random.key(2), (TOKENS, columns), jnp.bfloat16)

    def gradient(multiply: Any, argument: int) -> Any:
        return lambda *operands: jax.vjp(multiply, *operands[:2])[1](operands[2])[argument]

    few = x[:FEW]
    cases = {  # ours, XLA's, with their operands
        "x @ kernel": (matmul, (x, kernel), jnp.matmul, (x, kernel)),
        "gradient of x": (gradient(matmul, 0), (x, kernel, by_out), gradient(jnp.matmul, 0), (x, kernel, by_out)),
        "gradient of kernel": (gradient(matmul, 1), (x, kernel, by_out), gradient(jnp.matmul, 1), (x, kernel, by_out)),
        f"x @ kernel, {FEW} rows": (matmul_by_columns, (few, jnp.asarray(kernel.T)), jnp.matmul, (few, kernel)),
    }
    machine = report.Machine.measured(args.size, matmul)
    table = []
    for name, (ours, operands, peer, peer_operands) in cases.items():
        seconds: Any = report.measure(
            {
                "ours": functools.partial(_run, jax.jit(ours), operands),
                "peer": functools.partial(_run, jax.jit(peer), peer_operands) if is_cpu else None,
            },
            max(5, args.size.repeats),
        )
        count = len(operands[0])
        operations = 2.0 * count * rows * columns
        notes = {"shape": [count, rows, columns], "GFLOP/s": operations / seconds["ours"] / 1e9}
        result = jax.eval_shape(ours, *operands)
        floor = machine.floor(operations, sum(x.nbytes for x in operands) + result.size * result.dtype.itemsize)
        table.append(report.Row(name, seconds["ours"], "XLA", seconds["peer"], floor, notes))
    report.finish("matmul", args, machine, table)


if __name__ == "__main__":
    main()
