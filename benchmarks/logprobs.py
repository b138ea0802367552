"""Log-probabilities and entropies of tokens from hidden states, against torch's log_softmax over all logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models, report
from lc_jax.kernels.logprobs import token_logprobs

TEMPERATURE = 0.7
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # nats, against float64; logits are of order 1


def exact(hidden: np.ndarray, head: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64, [N]."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64) / TEMPERATURE
    top = logits.max(axis=-1, keepdims=True)
    logprobs = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return np.take_along_axis(logprobs, targets[:, None], axis=1)[:, 0]


def peers(hidden: jax.Array, head: jax.Array, targets: np.ndarray) -> dict[str, Callable[[], Any] | None]:
    """Forward, and forward with gradients, by torch."""
    device = models.torch_device()
    if device is None:
        return {"forward": None, "with gradients": None}
    import torch

    def tensor(x: jax.Array) -> torch.Tensor:
        return torch.tensor(np.asarray(x, np.float32), dtype=getattr(torch, str(x.dtype)), device=device)

    states, matrix = tensor(hidden), tensor(head)
    ids = torch.tensor(targets, device=device).long()[..., None]

    def outputs(states: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.log_softmax((states @ matrix).float() / TEMPERATURE, dim=-1)
        return logprobs.gather(-1, ids)[..., 0], -(logprobs.exp() * logprobs).sum(-1)

    def forward() -> Any:
        with torch.no_grad():
            return outputs(states, matrix)

    def gradients() -> Any:
        parts = [x.detach().requires_grad_() for x in (states, matrix)]
        return torch.autograd.grad(outputs(*parts)[0].sum(), parts)

    return {"forward": models.synchronised(forward), "with gradients": models.synchronised(gradients)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports.

    Raises:
      ArithmeticError: a log-probability is off by more than rounding.
    """
    args = report.arguments(__doc__ or "", argv)
    size, config = args.size, models.config_of(args.size)
    batch, length = max(1, size.batch // 16), size.length
    count, width = batch * length, config.hidden_size
    hidden = jax.random.normal(jax.random.key(0), (batch, length, width), size.dtype)
    head = (jax.random.normal(jax.random.key(1), (width, config.vocab_size)) / width**0.5).astype(size.dtype)
    targets = models.random_tokens(config, batch, length)

    few = slice(0, min(length, 64))
    expected = exact(np.asarray(hidden[0, few]), np.asarray(head), targets[0, few])
    compiled: dict[tuple[str, str], Any] = {}
    errors: dict[str, float] = {}
    # The kernel is interpreted on a CPU, which says nothing of its speed.
    for implementation in ("analytic", "portable", *(() if jax.default_backend() == "cpu" else ("pallas",))):

        @jax.jit
        def forward(
            hidden: jax.Array, head: jax.Array, implementation: str = implementation
        ) -> tuple[jax.Array, jax.Array]:
            return token_logprobs(hidden, head, targets, jnp.float32(TEMPERATURE), implementation)

        gradients = jax.jit(jax.grad(lambda *x, f=forward: f(*x)[0].sum(), argnums=(0, 1)))
        errors[implementation] = float(np.max(np.abs(np.asarray(forward(hidden, head)[0])[0, few] - expected)))
        if not errors[implementation] <= TOLERANCE[size.dtype]:
            raise ArithmeticError(
                f"{implementation} log-probabilities are off by {errors[implementation]:.3g} nats from float64."
            )
        compiled[implementation, "forward"] = forward.lower(hidden, head).compile()
        compiled[implementation, "with gradients"] = gradients.lower(hidden, head).compile()
    machine, theirs = report.Machine.measured(size), peers(hidden, head, targets)
    products = 2.0 * count * width * config.vocab_size
    num_bytes = float(hidden.nbytes + head.nbytes)
    floors = {
        "forward": machine.floor(products, num_bytes),
        "with gradients": machine.floor(3 * products, 2 * num_bytes),
    }
    rows = []
    for (implementation, name), call in compiled.items():
        seconds: Any = report.measure(
            {"ours": lambda call=call: jax.block_until_ready(call(hidden, head)), "peer": theirs[name]}, size.repeats
        )
        notes: dict[str, Any] = {
            "MiB of work space": call.memory_analysis().temp_size_in_bytes / 2**20,
            "MiB of all logits in float32": 4 * count * config.vocab_size / 2**20,
        }
        notes |= {"largest error against float64": errors[implementation]} if name == "forward" else {}
        rows.append(
            report.Row(f"{name} ({implementation})", seconds["ours"], "torch", seconds["peer"], floors[name], notes)
        )
    report.finish("logprobs", args, machine, rows)


if __name__ == "__main__":
    main()
