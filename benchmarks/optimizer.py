"""One step of each kind of AdamW on given gradients, against optax.adamw and torch's fused AdamW, both float32.

The floor is what reading gradients, and reading and writing parameters and moments takes.
`python -m benchmarks.optimizer_curves` says whether the kinds learn alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import models, optimizer_curves, report
from lc_jax import memory, parallel
from lc_jax.models import registry
from lc_jax.models.config import Config
from lc_jax.models.transformer import trainable
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

# Of a 7B model where the device is an accelerator, so that float32 AdamW of three implementations fits side by side.
LAYERS = 2
TOLERANCE = 1e-6  # between float32 AdamW's first steps


def settings(kind: str) -> OptimizerSettings:
    """Returns settings without clipping and decay, as the peers have neither."""
    return OptimizerSettings(1e-3, 100, 0, "constant", 0.9, 0.999, 1e-8, 0.0, float("inf"), kind)


class Ours:
    """A model's parameters and moments under one kind; a call makes a step."""

    def __init__(self, config: Config, mesh: jax.sharding.Mesh, kind: str, grads: Any) -> None:
        params = registry.initialize(config, jax.random.key(0), mesh).params
        tx = make_optimizer(settings(kind), trainable(params))
        self.state, self.grads = states.create(params, tx), grads
        count = sum(x.size for x in jax.tree.leaves(params))
        state_bytes = memory.shard_bytes((self.state.params, self.state.opt_state))
        step = jax.jit(functools.partial(states.apply_gradients, tx=tx), donate_argnames="state")
        self.step = step.lower(self.state, grads).compile()
        analysis = self.step.memory_analysis()
        work = analysis.output_size_in_bytes - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes
        self.traffic = 2.0 * state_bytes + memory.shard_bytes(grads)
        self.notes = {
            "parameters": count,
            "bytes a parameter": state_bytes / count,
            "work space a parameter": work / count,
        }

    def __call__(self) -> None:
        self.state, _ = self.step(self.state, self.grads)
        jax.block_until_ready(self.state)


def by_optax(params: Any, grads: Any) -> Callable[[], Any]:
    """optax.adamw in its own form, everything donated."""
    tx = optax.adamw(1e-3, weight_decay=0.0)
    carry = [(params, jax.jit(tx.init)(params))]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, grads: Any) -> Any:
        updates, moments = tx.update(grads, state[1], state[0])
        return optax.apply_updates(state[0], updates), moments

    def call() -> Any:
        carry.append(step(carry.pop(), grads))
        return jax.block_until_ready(carry[0])[0]

    return call


def by_torch(params: Any, grads: Any) -> Callable[[], Any] | None:
    """torch.optim.AdamW, fused."""
    device = models.torch_device()
    if device is None:
        return None
    import torch

    tensors = [torch.nn.Parameter(models.tensor(x).to(device)) for x in jax.device_get(jax.tree.leaves(params))]
    for tensor, grad in zip(tensors, jax.device_get(jax.tree.leaves(grads)), strict=True):
        tensor.grad = models.tensor(grad).to(device)
    optimizer = torch.optim.AdamW(tensors, lr=1e-3, weight_decay=0.0, fused=True)

    def call() -> Any:
        optimizer.step()
        return tensors

    return call


def check(mine: Any, theirs: Any) -> None:
    """Raises ArithmeticError where the parameters after one float32 step differ."""
    for a, b in zip(jax.tree.leaves(mine), theirs, strict=True):
        apart = float(jnp.max(jnp.abs(a - jnp.asarray(b))))
        if apart > TOLERANCE:
            raise ArithmeticError(f"parameters of shape {a.shape} are {apart:.2g} apart after one step.")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports.

    Raises:
      ArithmeticError: the first steps of float32 AdamW differ.
    """
    args = report.arguments(__doc__ or "", argv)
    shapes = {
        kind: models.config_of(args.size, param_dtype=dtype) for kind, dtype in optimizer_curves.PARAM_DTYPE.items()
    }
    if args.size is report.MINIATURE:  # so small a step would time the calls
        shapes = {kind: optimizer_curves.config_of("10M", kind) for kind in optimizer_curves.PARAM_DTYPE}
    elif args.size is report.LARGE:
        shapes = {kind: models.with_layers(config, LAYERS) for kind, config in shapes.items()}
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        start = registry.initialize(shapes["adamw"], jax.random.key(0), mesh).params
        grads = jax.jit(lambda p: jax.tree.map(lambda x: 1e-3 * jnp.sin(1e4 * x) + 1e-5, p))(start)
        ours = {kind: Ours(config, mesh, kind, grads) for kind, config in shapes.items()}
        torch_step = by_torch(start, grads)
        optax_step = by_optax(start, grads)  # takes `start`
        ours["adamw"]()
        check(ours["adamw"].state.params, jax.tree.leaves(optax_step()))
        if torch_step:
            check(ours["adamw"].state.params, [x.detach().cpu().numpy() for x in torch_step()])
            torch_step = models.synchronised(torch_step)
        machine = report.Machine.measured(args.size)
        calls: dict[str, Any] = {**ours, "optax.adamw": optax_step, "torch.optim.AdamW": torch_step}
        seconds: Any = report.measure(calls, args.size.repeats)
    rows = [
        report.Row(kind, seconds[kind], peer, seconds[peer], machine.floor(0.0, one.traffic), one.notes)
        for kind, one in ours.items()
        for peer in ("optax.adamw", "torch.optim.AdamW")
    ]
    report.finish("optimizer", args, machine, rows)


if __name__ == "__main__":
    main()
