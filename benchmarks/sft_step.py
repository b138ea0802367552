"""One optimiser step of supervised fine-tuning, against torch with the transformers model and fused AdamW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import models, report
from lc_jax import parallel
from lc_jax.data.examples import Encoded
from lc_jax.models.config import Config
from lc_jax.models.transformer import Model, trainable
from lc_jax.training import language_model, loop
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

SETTINGS = OptimizerSettings(1e-5, 100, 0, "constant", 0.9, 0.999, 1e-8, 0.0, 1.0)
# Layers of the model and sequences of a step where the device is an accelerator: AdamW's float32 moments of all 32
# layers of a 7B model would not fit one. The fraction of the roofline is that of these layers.
LAYERS, SEQUENCES = 8, 16


def shape_of(size: report.Size) -> tuple[Config, int]:
    """Returns the model's config and the sequences of a step."""
    config = models.config_of(size)
    if size is report.LARGE:
        return models.with_layers(config, LAYERS), SEQUENCES
    return config, size.batch // 2


def ours(model: Model, tokens: np.ndarray) -> Callable[[], float]:
    """Returns a function that trains one step and returns the loss."""
    tx = make_optimizer(SETTINGS, trainable(model.params))
    states_in_use = [states.create(model.params, tx)]
    skeleton = model.with_params(None)
    data = language_model.dataset([Encoded(tuple(row.tolist()), 1) for row in tokens])
    batch = parallel.put_batch(dict(data.collate(np.arange(len(tokens)))))

    def step() -> float:
        state, metrics = loop.train_step(
            states_in_use.pop(), skeleton, batch, loss_fn=language_model.loss_fn, tx=tx, microbatches=1
        )
        states_in_use.append(state)
        return float(metrics["loss"])

    return step


def peer(network: Any, tokens: np.ndarray, remat: str) -> Callable[[], float]:
    """The same by torch."""
    import torch

    network.train()
    if remat != "none":
        network.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(network.parameters(), lr=SETTINGS.learning_rate, weight_decay=0.0, fused=True)
    ids = torch.tensor(tokens, device=network.device).long()

    def step() -> float:
        loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), SETTINGS.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports.

    Raises:
      ArithmeticError: the first losses of the two differ.
    """
    args = report.arguments(__doc__ or "", argv)
    size = args.size
    config, batch = shape_of(size)
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        model = models.random_model(config, mesh)
        tokens = models.random_tokens(config, batch, size.length)
        network, mine = models.to_torch(model), ours(model, tokens)
        del model  # the first step takes its parameters
        first, step = mine(), None if network is None else peer(network, tokens, config.remat)
        expected = step() if step else None
        if expected is not None and abs(first - expected) > (1e-4 if size.dtype == "float32" else 2e-2):
            raise ArithmeticError(f"first loss {first:.6f}, the peer's {expected:.6f}.")
        machine = report.Machine.measured(size)
        theirs = step and models.synchronised(step)
        seconds: Any = report.measure({"ours": mine, "peer": theirs}, size.repeats)
    flops = 3 * models.forward_flops(config, batch, size.length, batch * (size.length - 1))
    notes = {
        "layers": config.num_layers,
        "sequences": batch,
        "tokens per second": batch * size.length / seconds["ours"],
        "TFLOP/s": flops / seconds["ours"] / 1e12,
        "first loss": first,
        "peer's first loss": expected,
    }
    row = report.Row(
        f"step of {batch} x {size.length}", seconds["ours"], "torch", seconds["peer"], machine.floor(flops), notes
    )
    report.finish("sft_step", args, machine, [row])


if __name__ == "__main__":
    main()
