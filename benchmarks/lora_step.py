"""One optimiser step of low-rank adapters, against full fine-tuning in lc_jax and against peft with transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import models, report
from benchmarks.sft_step import ours, peer, shape_of
from lc_jax import parallel
from lc_jax.models import hf
from lc_jax.models.config import Lora

RANK, ALPHA = 16, 32.0


def with_adapters(network: Any, remat: str) -> Any:
    """Returns a transformers model with peft's adapters of all linear layers of its blocks."""
    import peft

    if remat != "none":
        network.enable_input_require_grads()  # a checkpointed block whose input has none would have no gradient
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(network, settings)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports.

    Raises:
      ArithmeticError: the first losses differ.
    """
    args = report.arguments(__doc__ or "", argv)
    size = args.size
    config, batch = shape_of(size)
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        model = models.random_model(config, mesh)
        hf.save(folder, model)
        low_rank = hf.load(folder, mesh, **size.precision, lora=Lora(RANK, ALPHA))
        tokens = models.random_tokens(config, batch, size.length)
        network = models.to_torch(model) if models.has("peft") else None
        steps: dict[str, Any] = {"ours": ours(low_rank, tokens), "full": ours(model, tokens), "peer": None}
        del model, low_rank  # the first steps take their parameters
        if network is not None:
            steps["peer"] = peer(with_adapters(network, config.remat), tokens, config.remat)
        losses = {name: step() for name, step in steps.items() if step}
        if max(losses.values()) - min(losses.values()) > (1e-4 if size.dtype == "float32" else 2e-2):
            raise ArithmeticError(f"the first losses differ: {losses}.")
        if network is not None:
            steps["peer"] = models.synchronised(steps["peer"])  # finding the number of threads trains a few steps
        machine = report.Machine.measured(size)
        seconds: Any = report.measure(steps, size.repeats)
    # Frozen matrices have no gradients: the backward pass is as much as the forward pass. Adapters are small.
    flops = 2 * models.forward_flops(config, batch, size.length, batch * (size.length - 1))
    notes = {"rank": RANK, "sequences": batch, "tokens per second": batch * size.length / seconds["ours"], **losses}
    name, floor = f"adapters, step of {batch} x {size.length}", machine.floor(flops)
    rows = [report.Row(name, seconds["ours"], "full fine-tuning", seconds["full"], floor, notes)]
    rows.append(report.Row(name, seconds["ours"], "peft", seconds["peer"], floor, notes))
    report.finish("lora_step", args, machine, rows)


if __name__ == "__main__":
    main()
