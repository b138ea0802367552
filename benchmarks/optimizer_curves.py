"""Learning curves of the three kinds of AdamW: the miniature's shape and one of 10 million parameters, from scratch.

python -m benchmarks.optimizer_curves                 1,000 steps, three seeds
python -m benchmarks.optimizer_curves --plot          only draws what there is

Every kind sees the same batches from the same weights. Finished runs are kept in
benchmarks/results/optimizer-curves.json and not done again; the figure goes to docs/images/optimizer.png.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import models, report
from configs import pretrain
from lc_jax import parallel
from lc_jax.data.examples import Encoded
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.miniature import corpus
from lc_jax.miniature.world import build
from lc_jax.models import registry
from lc_jax.models.transformer import trainable
from lc_jax.training import language_model, loop
from lc_jax.training import state as states
from lc_jax.training.optimizer import Optimizer, OptimizerSettings, make_optimizer

LENGTH, EVERY = 64, 10  # tokens of a sequence; steps whose losses are averaged into one point
HELD_OUT = 64  # sequences
PARAM_DTYPE = {"adamw": "float32", "adamw_int8": "bfloat16", "adamw_int8_master": "bfloat16"}
LABELS = {
    "adamw": "float32 AdamW (12 bytes a parameter)",
    "adamw_int8": "int8 moments, stochastic rounding (4)",
    "adamw_int8_master": "int8 moments, exact low half (6)",
}
# By name: shape, sequences of a step, learning rate.
SHAPES: dict[str, tuple[dict[str, Any], int, float]] = {
    "miniature": ({}, 4, 1.5e-3),
    "10M": (
        {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 5, "num_attention_heads": 6,
         "initializer_range": 384**-0.5}, 2, 1e-3,
    ),
}  # fmt: skip


def config_of(name: str, kind: str) -> Any:
    """The model's config: float32 arithmetic, parameters as the kind of optimiser wants them."""
    tokenizer = load_tokenizer(models.MINIATURE)
    shape = pretrain.get_config("llama").shape.to_dict() | SHAPES[name][0]
    raw = shape | {"model_type": "llama", "vocab_size": len(tokenizer)}
    return registry.config_from_hf(raw, param_dtype=PARAM_DTYPE[kind], compute_dtype="float32", remat="none")


def sequences(count: int, seed: int) -> list[Encoded]:
    """Pieces of the miniature world's documents, one after the other, all of the same length."""
    tokenizer = load_tokenizer(models.MINIATURE)
    mix = tuple(pretrain.get_config("llama").mix)
    tokens: list[int] = []
    for prompt, target in corpus.documents(build(), np.random.default_rng(seed), mix):
        if len(tokens) >= count * LENGTH:
            break
        tokens += [*tokenizer.encode_pair(prompt, target)[0], tokenizer.eos_id]
    return [Encoded(tuple(tokens[i * LENGTH : (i + 1) * LENGTH]), 1) for i in range(count)]


@functools.cache
def optimizer(name: str, kind: str, steps: int) -> Optimizer:
    """One for all seeds, so that these share a compiled program."""
    settings = OptimizerSettings(SHAPES[name][2], steps, steps // 50, "cosine", 0.9, 0.999, 1e-8, 0.01, 1.0, kind)
    return make_optimizer(settings, trainable(registry.abstract_model(config_of(name, kind)).params))


def curve(name: str, kind: str, seed: int, steps: int) -> dict[str, Any]:
    """One run: training losses, a point EVERY steps, the held-out loss at the end, bytes a parameter."""
    rows, tx, started = SHAPES[name][1], optimizer(name, kind, steps), time.process_time()
    data, held_out = (language_model.dataset(sequences(n, s)) for n, s in ((steps * rows, seed), (HELD_OUT, 1000)))
    mesh, losses = parallel.make_mesh(), []
    with jax.set_mesh(mesh):
        model = registry.initialize(config_of(name, kind), jax.random.key(seed), mesh)
        state, skeleton = states.create(model.params, tx), model.with_params(None)
        count = sum(x.size for x in jax.tree.leaves(state.params))
        num_bytes = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
        for step in range(steps):
            batch = parallel.put_batch(dict(data.collate(np.arange(rows) + step * rows)))
            state, metrics = loop.train_step(
                state, skeleton, batch, loss_fn=language_model.loss_fn, tx=tx, microbatches=1
            )
            losses.append(float(metrics["loss"]))
        last = loop.evaluate(skeleton.with_params(state.params), held_out, language_model.loss_fn, HELD_OUT)
    points = np.mean(np.reshape(losses, (-1, EVERY)), axis=1)
    return {
        "losses": [round(float(x), 5) for x in points],
        "held_out": round(last["eval_loss"], 5),
        "parameters": count,
        "bytes_per_parameter": num_bytes / count,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def summary(runs: dict[str, Any]) -> list[str]:
    """A line for each model and kind: held-out loss of each seed, and its mean difference from float32 AdamW."""
    lines = []
    for name, kind in itertools.product(SHAPES, PARAM_DTYPE):
        seeds = [run.rsplit("/", 1)[1] for run in runs if run.startswith(f"{name}/{kind}/")]
        losses = [runs[f"{name}/{kind}/{seed}"]["held_out"] for seed in seeds]
        base = [runs.get(f"{name}/adamw/{seed}", {}).get("held_out", np.nan) for seed in seeds]
        if losses:
            apart = np.subtract(losses, base)
            lines.append(
                f"{name:10s} {kind:18s} held-out loss {' '.join(f'{x:.4f}' for x in losses)}  "
                f"mean {np.mean(losses):.4f}, less float32's {np.mean(apart):+.4f} (at most {np.abs(apart).max():.4f})"
            )
    return lines


def plot(runs: dict[str, Any], path: Path) -> None:
    """Above the curves of every seed, below how much higher they are than float32 AdamW's of the same seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(SHAPES), figsize=(10, 6), sharex=True, height_ratios=(2, 1), squeeze=False)
    for column, name in enumerate(SHAPES):
        above, below = axes[:, column]
        for kind, colour, style in zip(PARAM_DTYPE, ("black", "tab:orange", "tab:blue"), ("-", "--", ":"), strict=True):
            seeds = [run.rsplit("/", 1)[1] for run in runs if run.startswith(f"{name}/{kind}/")]
            both = [s for s in seeds if f"{name}/adamw/{s}" in runs]
            if not both:
                continue
            losses = np.array([runs[f"{name}/{kind}/{s}"]["losses"] for s in both])
            base = np.array([runs[f"{name}/adamw/{s}"]["losses"] for s in both])
            steps = EVERY * (0.5 + np.arange(losses.shape[1]))
            above.plot(steps, losses.mean(0), style, color=colour, label=LABELS[kind], lw=1.5)
            below.plot(steps, (losses - base).mean(0), style, color=colour, lw=1.2)
            below.fill_between(steps, (losses - base).min(0), (losses - base).max(0), color=colour, alpha=0.15, lw=0)
        above.set_title(f"{name}: {next(r['parameters'] for k, r in runs.items() if k.startswith(name)) / 1e6:.1f}M")
        above.set_ylabel("training loss")
        below.set(xlabel="step", ylabel="less float32's", ylim=(-0.1, 0.1))
        above.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is missing, prints the held-out losses and draws the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--output", type=Path, default=report.ROOT / "benchmarks" / "results")
    parser.add_argument("--figure", type=Path, default=report.ROOT / "docs" / "images" / "optimizer.png")
    args = parser.parse_args(argv)
    path = args.output / "optimizer-curves.json"
    corpus_number = zlib.crc32(str(sequences(HELD_OUT, 1000)).encode())
    what = f"{args.steps} steps on corpus {corpus_number:08x}"
    result = json.loads(path.read_text()) if path.is_file() else {"what": what, "runs": {}}
    if result["what"] != what:
        parser.error(f"{path} holds runs of {result['what']}, not of {what}: remove it, or give another --output")
    runs = result["runs"]
    for name, seed, kind in itertools.product(args.shapes, range(args.seeds), PARAM_DTYPE):
        key = f"{name}/{kind}/{seed}"
        if args.plot or key in runs:
            continue
        runs[key] = curve(name, kind, seed, args.steps)
        print(f"{key}: held-out loss {runs[key]['held_out']:.4f}, {runs[key]['cpu_seconds']} s", flush=True)
        result |= {"command": "python -m benchmarks.optimizer_curves", "hardware": report.hardware(),
                   "versions": report.versions()}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=None, separators=(",", ":")) + "\n")
    print("\n".join(summary(runs)))
    plot(runs, args.figure)


if __name__ == "__main__":
    main()
