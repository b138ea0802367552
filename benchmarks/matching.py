"""Training steps until a tiny Llama matches words by content, on synthetic lists without a corpus.

python -m benchmarks.matching --task=pairs --steps=100 --plant     with induction heads to begin with
python -m benchmarks.matching --task=pairs --steps=400             without

Tasks: `copy` a list of 3 to --words words; `member`, whether words are in a list; `pairs`, which of ten symbols stood
behind a word. Printed every 50 steps: loss of a batch of 32, and the share of copied words, verdicts or symbols that
are right.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import pretrain
from lc_jax import parallel
from lc_jax.data.examples import Encoded
from lc_jax.miniature import induction
from lc_jax.models import registry
from lc_jax.models.transformer import Model, trainable
from lc_jax.training import language_model, loop
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

FIRST_WORD, FIRST_SYMBOL, BATCH = 10, 2000, 32


def example(task: str, vocabulary: int, most: int, rng: np.random.Generator) -> Encoded:
    """A list and what is asked about it."""
    count = int(rng.integers(3, most + 1))
    words = FIRST_WORD + rng.permutation(vocabulary)[: 2 * count]
    there, symbols = words[:count], FIRST_SYMBOL + rng.integers(0, 10, count)
    if task == "copy":
        prompt, target = there, there
    elif task == "member":
        queries = rng.permutation(words)[:count]
        prompt, target = there, np.stack([queries, FIRST_SYMBOL + np.isin(queries, there)], axis=1).ravel()
    else:
        pairs = np.stack([there, symbols], axis=1)
        prompt, target = pairs.ravel(), pairs[rng.permutation(count)].ravel()
    return Encoded((0, *map(int, prompt), *map(int, target)), len(prompt) + 2)  # the first target cannot be known


@jax.jit
def share_right(model: Model, batch: dict[str, jax.Array], first_counted: jax.Array) -> jax.Array:
    """Computes accuracy on targets from token id `first_counted` on."""
    module, targets = model.bind(), batch["tokens"][:, 1:]
    guesses = jnp.argmax(module.logits(module(batch["tokens"], batch["lengths"])[:, :-1]), axis=-1)
    slots = jnp.arange(1, batch["tokens"].shape[1])
    counted = (
        (slots >= batch["first_targets"][:, None]) & (slots < batch["lengths"][:, None]) & (targets >= first_counted)
    )
    return jnp.sum(counted & (guesses == targets)) / jnp.sum(counted)


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=("copy", "member", "pairs"), default="member")
    for name, default in (("words", 12), ("vocabulary", 145), ("steps", 400), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("spread", 0.088), ("rate", 3e-3)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--plant", action="store_true")
    flags = parser.parse_args()
    rng, config, mesh = np.random.default_rng(flags.seed), pretrain.get_config("llama"), parallel.make_mesh()
    raw = config.shape.to_dict() | {"vocab_size": config.vocab_size, "initializer_range": flags.spread}
    shape = registry.config_from_hf(raw | {"model_type": "llama"}, **config.precision)
    settings = OptimizerSettings(flags.rate, flags.steps, flags.steps // 20, "constant", 0.9, 0.98, 1e-8, 0.01, 1.0)
    with jax.set_mesh(mesh):
        model = registry.initialize(shape, jax.random.key(flags.seed), mesh)
        if flags.plant:
            model = induction.plant(model, flags.seed)
        tx = make_optimizer(settings, trainable(model.params))
        state, structure, started = states.create(model.params, tx), model.with_params(None), time.monotonic()
        counted = jnp.int32(FIRST_WORD if flags.task == "copy" else FIRST_SYMBOL)
        examples = [example(flags.task, flags.vocabulary, flags.words, rng) for _ in range(flags.steps * BATCH)]
        data = language_model.dataset(examples)
        for step in range(1, flags.steps + 1):
            batch = parallel.put_batch(dict(data.collate(np.arange(BATCH) + (step - 1) * BATCH)))
            is_reported = step == 1 or step % 50 == 0
            if is_reported:  # on a batch that it has not learned from; in the first step, before any update
                right = float(share_right(structure.with_params(state.params), batch, counted))
            state, metrics = loop.train_step(
                state, structure, batch, loss_fn=language_model.loss_fn, tx=tx, microbatches=1
            )
            if is_reported:
                seconds = time.monotonic() - started
                print(f"step {step}: loss {float(metrics['loss']):.3f}, right {right:.2f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
