"""The path that supervised trainings share, from rows to a folder; they differ in objective and examples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lc_jax.data import examples
from lc_jax.data.tokenizer import Tokenizer
from lc_jax.models import hf
from lc_jax.models.config import training_fields
from lc_jax.prompts import Templates
from lc_jax.training import loop, run_steps
from lc_jax.training.exports import Exports
from lc_jax.training.logging import RunDirectory
from lc_jax.training.optimizer import OptimizerSettings
from lc_jax.types import Example

# (tokenizer, examples, most tokens of one) -> data set, without examples whose prompt leaves no room for a target
Encode = Callable[[Tokenizer, Sequence[Example], int], loop.Dataset]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective of a supervised training, with the encoding of its examples."""

    task: str  # a name of run_steps.TASKS, which has the kind of its model
    loss_fn: loop.LossFn
    encode: Encode


def train(
    settings: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    objective: Objective,
    tokenizer: Tokenizer,
    templates: Templates,
    microbatch_size: int,
) -> None:
    """Trains `settings["model"]` on `settings["data"]` and leaves a Hugging Face checkpoint in `<output>/model`.

    Args:
      settings: of the task, by name.
      tokenizer: see run_steps.export_tokenizer.
      microbatch_size: in place of fit.microbatch_size, which may be 0.

    Raises:
      ValueError: no row can be trained on.
    """
    seed, output, data = settings["seed"], Path(settings["output"]), settings["data"]
    fit = loop.FitSettings(**settings["fit"] | {"microbatch_size": microbatch_size}, seed=seed)
    max_length = data["max_length"]
    split, dropped = examples.load_split(data, templates, tokenizer.fits(max_length), seed)
    train_set, held_out = (objective.encode(tokenizer, part, max_length) for part in (split.train, split.evaluation))
    num_train, num_held_out = len(train_set.lengths), len(held_out.lengths)
    dropped[f"the prompt fills --config.data.max_length={max_length}"] += len(split.train) - num_train
    examples.report_sizes(data, num_train, num_held_out, dropped)

    save = functools.partial(hf.save, tokenizer=tokenizer, dtype=settings["export_dtype"] or None)
    names = ["model", "seed", "data", "fit", "optimizer", "precision", *({"objective"} & settings.keys())]
    names += ["lora"] if settings["lora"]["rank"] else []
    run_directory = RunDirectory.of(settings, *names)
    kind = run_steps.TASKS[objective.task][1]
    model = loop.fit(
        hf.load(settings["model"], mesh, kind=kind, vocab_size=tokenizer.num_rows, **training_fields(settings)),
        objective.loss_fn,
        train_set,
        held_out if num_held_out else None,
        fit,
        OptimizerSettings.from_ratio(fit.num_steps(num_train), **settings["optimizer"]),
        dataclasses.replace(run_directory, exports=Exports(output, settings["export_every"], save)),
    )
    save(output / "model", model)
