"""Log-probabilities and entropies of texts, and rewards of texts of many lengths, against the transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import models, report
from lc_jax import parallel
from lc_jax.inference import score


def peer_logprobs(network: Any, sequences: Sequence[Sequence[int]], batch_size: int) -> list[np.ndarray]:
    """Computes log-probabilities of each token after the first, in batches in order, padded to the longest."""
    import torch

    rows = []
    for first in range(0, len(sequences), batch_size):
        part = sequences[first : first + batch_size]
        lengths = [len(s) for s in part]
        ids = torch.zeros(len(part), max(lengths), dtype=torch.long)
        for row, sequence in enumerate(part):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        ids = ids.to(network.device)
        mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long().to(network.device)
        with torch.no_grad():
            logprobs = torch.log_softmax(network(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
            entropies = -(logprobs.exp() * logprobs).sum(-1)
            targets = logprobs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].cpu().numpy()
            entropies.cpu()
        rows += [row[: n - 1] for row, n in zip(targets, lengths, strict=True)]
    return rows


def peer_rewards(network: Any, sequences: Sequence[Sequence[int]], batch_size: int) -> None:
    """Runs the backbone of a scalar head, in batches in order."""
    import torch

    backbone = network.model
    for first in range(0, len(sequences), batch_size):
        part = sequences[first : first + batch_size]
        ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(part):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        with torch.no_grad():
            ids, mask = ids.to(network.device), mask.to(network.device)
            backbone(input_ids=ids, attention_mask=mask).last_hidden_state.float().mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and reports.

    Raises:
      ArithmeticError: log-probabilities are not the peer's.
    """
    args = report.arguments(__doc__ or "", argv)
    size, config = args.size, models.config_of(args.size)
    longest, batch = size.prompt + size.response, max(8, size.batch // 2)
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 4, longest + 1, 2 * batch)
    sequences = [models.random_tokens(config, 1, n, seed)[0].tolist() for seed, n in enumerate(lengths)]
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        model = models.random_model(config, mesh)
        network = models.to_torch(model)
        reward = models.random_model(config, mesh, kind="scalar")

        def logprobs() -> list[score.TokenScores]:
            scores = dict(score.stream_logprobs(model, sequences, batch_size=batch))
            return [scores[i] for i in range(len(sequences))]

        error = None
        if network is not None:
            pairs = zip(logprobs(), peer_logprobs(network, sequences, batch), strict=True)
            error = max(float(np.max(np.abs(np.asarray(a.logprobs) - b))) for a, b in pairs)
            if size.dtype == "float32" and error > 1e-3:
                raise ArithmeticError(f"log-probabilities are off by {error:.3g} nats from the peer's.")
        machine = report.Machine.measured(size)
        theirs = network is not None
        both: dict[str, Any] = {
            "logprobs": (logprobs, lambda: peer_logprobs(network, sequences, batch)),
            "rewards": (
                lambda: dict(score.stream_rewards(reward, sequences, batch_size=batch)),
                lambda: peer_rewards(network, sequences, batch),
            ),
        }
        seconds: dict[str, Any] = {
            name: report.measure({"ours": ours, "peer": models.synchronised(peer) if theirs else None}, size.repeats)
            for name, (ours, peer) in both.items()
        }
    heads = {"logprobs": 1, "rewards": 0}
    rows = [
        report.Row(
            f"{name} of {len(sequences)} sequences", seconds[name]["ours"], "transformers", seconds[name]["peer"],
            machine.floor(sum(models.forward_flops(config, 1, int(n), int(n) * heads[name]) for n in lengths)),
            {"tokens per second": float(lengths.sum()) / seconds[name]["ours"]}
            | ({"largest difference from the peer, nats": error} if heads[name] else {}),
        )
        for name in both
    ]  # fmt: skip
    report.finish("score", args, machine, rows)


if __name__ == "__main__":
    main()
