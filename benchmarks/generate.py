"""Sampling with a key/value cache, against transformers' generate: the same weights, prompts and numbers of tokens.

Prompts have nothing in common, then begin with the same tokens, as behind instructions or examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import models, report
from lc_jax import parallel
from lc_jax.inference import generate
from lc_jax.models.transformer import Model


def peer_tokens(network: Any, tokens: np.ndarray, response: int, sample: bool) -> np.ndarray:
    """`response` tokens a row from transformers; no end-of-sequence token ends a row early."""
    import torch

    ids = torch.tensor(tokens, device=network.device).long()
    network.generation_config.eos_token_id = None
    how = {"do_sample": True, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
    with torch.no_grad():
        out = network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=response, pad_token_id=0, **how
        )
    return out[:, ids.shape[1] :].cpu().numpy()


def greedy_by_full_passes(model: Model, prompt: np.ndarray, response: int) -> list[int]:
    """Greedy tokens without any cache: one whole forward pass for each; the reference where torch is not there."""

    @jax.jit
    def next_token(model: Model, tokens: jax.Array, last: jax.Array) -> jax.Array:
        module = model.bind()
        return module.logits(module(tokens)[:, last]).argmax(-1)

    tokens = np.zeros((1, len(prompt) + response), np.int32)
    tokens[0, : len(prompt)] = prompt
    for place in range(len(prompt), tokens.shape[1]):
        tokens[0, place] = int(next_token(model, tokens, np.int32(place - 1))[0])
    return tokens[0, len(prompt) :].tolist()


def agreement(model: Model, network: Any, tokens: np.ndarray, response: int) -> float:
    """Share of greedy tokens, up to the first that differs in each row, that are the reference's.

    Raises:
      ArithmeticError: in float32, where rounding seldom turns a choice, fewer than 95% agree.
    """
    prompts = [row.tolist() for row in tokens]
    settings = generate.Sampling(response, temperature=0.0)
    ours = [c.tokens for c in generate.generate(model, prompts, settings, seed=0, batch_size=len(prompts))]
    if network is not None:
        expected = peer_tokens(network, tokens, response, sample=False).tolist()
    else:
        expected = [greedy_by_full_passes(model, row, response) for row in tokens]
    same = [np.cumprod(np.equal(a, b)).mean() for a, b in zip(ours, expected, strict=True)]
    share = float(np.mean(same))
    if model.config.compute_dtype == "float32" and share < 0.95:
        raise ArithmeticError(f"only {share:.1%} of the greedy tokens are the reference's.")
    return share


def timed(
    model: Model, network: Any, tokens: np.ndarray, common: int, size: report.Size, machine: report.Machine
) -> report.Row:
    """A row of the report; `common` of the tokens are the same in all rows."""
    batch, width = tokens.shape
    sampling = generate.Sampling(size.response)
    share = agreement(model, network, tokens[: min(8, batch)], min(16, size.response))

    def write(tokens: np.ndarray) -> Any:
        return generate.generate(model, tokens.tolist(), sampling, seed=0, batch_size=batch)

    def peer() -> Any:
        return peer_tokens(network, tokens, size.response, sample=True)

    functions = {"ours": lambda: write(tokens), "peer": None if network is None else models.synchronised(peer)}
    if common and network is not None:  # as the peer, it needs a cache of the whole length
        apart = tokens.copy()
        apart[0, 0] ^= 1
        functions["apart"] = lambda: write(apart)
    seconds: Any = report.measure(functions, size.repeats)
    prompt, config = width - common, model.config
    across = 4.0 * config.num_layers * config.num_heads * config.head_dim * batch * prompt * common
    floor = machine.floor(models.forward_flops(config, batch, prompt, batch) + across)
    floor += machine.floor(models.forward_flops(config, 1, common, 0))
    notes = {
        "tokens per second": batch * size.response / seconds["ours"],
        "ms a step": 1e3 * seconds["ours"] / size.response,
        f"greedy tokens as by {'transformers' if network is not None else 'full passes'}": share,
    } | ({"seconds where the first token differs": seconds["apart"]} if "apart" in seconds else {})
    return report.Row(
        f"{batch} rows of {prompt} + {size.response}" + (f", {common} before all" if common else ""),
        seconds["ours"], "transformers", seconds["peer"],
        floor + models.decode_floor(machine, config, batch, prompt, size.response, common), notes,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports."""
    args = report.arguments(__doc__ or "", argv)
    size, config = args.size, models.config_of(args.size)
    mesh, common = parallel.make_mesh(), 4 * size.prompt
    with jax.set_mesh(mesh):
        model = models.random_model(config, mesh)
        network = models.to_torch(model)
        tokens = models.random_tokens(config, size.batch, common + size.prompt)
        machine = report.Machine.measured(size)
        rows = [timed(model, network, tokens[:, common:], 0, size, machine)]
        tokens[:, :common] = tokens[0, :common]
        peer = None if size is report.LARGE else network  # whose cache would need more than twice the memory
        rows.append(timed(model, peer, tokens, common, size, machine))
    report.finish("generate", args, machine, rows)


if __name__ == "__main__":
    main()
