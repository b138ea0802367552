"""Models of a training run as they were at one of its checkpoints, RUN/checkpoints/STEP."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lc_jax.data.examples import PARAGRAPH_RECIPES
from lc_jax.data.tokenizer import Tokenizer, load_templates_for, load_tokenizer
from lc_jax.models import folders, hf
from lc_jax.models.config import Lora
from lc_jax.models.layout import read_json
from lc_jax.models.registry import named_leaves
from lc_jax.models.transformer import Model
from lc_jax.prompts import Templates
from lc_jax.provenance import describe_changes

FOLDER, ITEM, METADATA = "checkpoints", "default", "metadata/_ROOT_METADATA"  # Orbax's names within a run
# Task -> setting that names the model it starts from, kind of the model it exports, where its parameters are saved.
TASKS = {
    "sft": ("model", "causal", ("params",)),
    "reward_model": ("model", "scalar", ("params",)),
    "ppo": ("policy", "causal", ("train", "params", "policy")),
}


def export_tokenizer(task: str, model: str, recipe: str, templates: Templates) -> Tokenizer:
    """Returns the tokenizer that a training trains with and saves next to its model.

    Args:
      task: a name of TASKS.
      model: the checkpoint that the training starts from.
      recipe: of the rows (lc_jax/data/examples.py); "" for PPO.
    """
    tokenizer = load_tokenizer(model)
    if task != "ppo":
        tokenizer = tokenizer.with_pad_token()
    if task == "ppo" or recipe in PARAGRAPH_RECIPES:
        tokenizer.add_chat_template(templates.paragraph)
    return tokenizer


@dataclasses.dataclass(frozen=True)
class RunStep:
    """One checkpoint of a training run."""

    folder: Path  # RUN/checkpoints/STEP
    settings: Mapping[str, Any]  # of the run, by dotted name

    @property
    def kind(self) -> str:
        """Kind of the model that the run exports."""
        return TASKS[self.settings["task"]][1]

    @property
    def base(self) -> str:
        """The checkpoint that the run started from: its config.json and tokenizer are needed."""
        return str(self.settings[TASKS[self.settings["task"]][0]])

    @property
    def lora(self) -> Lora | None:
        """The adapters that the run trains; None where it trains all parameters."""
        prefix = "lora."
        group = {key[len(prefix) :]: value for key, value in self.settings.items() if key.startswith(prefix)}
        return Lora.of(group) if group else None

    @property
    def dtype(self) -> str:
        """The dtype of the run's own export."""
        return self.settings.get("export_dtype") or self.settings["precision.param_dtype"]

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that the run saves with its model."""
        settings = self.settings
        templates = load_templates_for(self.base, settings["templates"], settings["prompt_dir"])
        return export_tokenizer(settings["task"], self.base, settings.get("data.recipe", ""), templates)

    def model(self, mesh: jax.sharding.Mesh, tokenizer: Tokenizer, dtype: str) -> Model:
        """Reads the trained parameters alone, in `dtype`: neither moments nor PPO's critic, nor what adapters adapt.

        Raises:
          ValueError: the checkpoint that the run started from is another one by now, of other shapes; or the step is
            damaged.
        """
        rows = None if self.settings["task"] == "ppo" else tokenizer.num_rows
        precision: dict[str, Any] = {"param_dtype": dtype, "compute_dtype": dtype}
        abstract, _ = hf.read(self.base, mesh, kind=self.kind, vocab_size=rows, lora=self.lora, **precision)
        target: Any = abstract.params
        path = TASKS[self.settings["task"]][2]
        for name in reversed(path):
            target = {name: target}
        arguments = ocp.args.PyTreeRestore(
            item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
        )
        self._check_shapes(abstract, path)
        with ocp.PyTreeCheckpointer() as checkpointer:
            params = checkpointer.restore((self.folder / ITEM).resolve(), args=arguments)
        for name in path:
            params = params[name]
        return abstract.with_params(params)

    def _check_shapes(self, model: Model, path: tuple[str, ...]) -> None:
        """Compares the stored shapes under `path` with those of the abstract `model`; Orbax names no parameter."""
        try:
            tree = ocp.PyTreeCheckpointHandler().metadata((self.folder / ITEM).resolve()).tree
            for name in path:
                tree = tree[name]
            shapes = {names[:-1]: tuple(leaf.shape) for names, leaf in named_leaves(tree)}  # without the last, "value"
        except (KeyError, TypeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.folder} is damaged; give another step of the run. ({reason})") from error
        expected = {names: tuple(leaf.shape) for names, leaf in named_leaves(model.params)}
        for names in sorted(shapes.keys() | expected.keys()):
            if shapes.get(names) != expected.get(names):
                raise ValueError(
                    f"{self.folder} is not of {self.base}: {'.'.join(names)} has shape {shapes.get(names)} there, "
                    f"{expected.get(names)} in the model. Put back the checkpoint that the run started from."
                )


def is_step(path: str | Path) -> bool:
    """Returns whether a path is that of a checkpoint of a run, there or not."""
    path = Path(path)
    return path.parent.name == FOLDER and path.name.isdigit() and not (path / "config.json").exists()


def steps(run: Path) -> list[int]:
    """Returns the steps of a run that have checkpoints, in order."""
    return sorted(int(path.name) for path in (run / FOLDER).glob("*") if path.name.isdigit() and (path / ITEM).is_dir())


def find(path: str | Path) -> RunStep:
    """Returns the checkpoint RUN/checkpoints/STEP with the settings of its run.

    Raises:
      FileNotFoundError: there is no such step (the message lists those there are), no record of the run, or no model
        that it started from.
      ValueError: the run is none of TASKS, or its record is of other settings.
    """
    folder = Path(path)
    run, there = folder.parents[1], steps(folder.parents[1])
    if int(folder.name) not in there:
        listed = f"its steps are {', '.join(map(str, there))}" if there else f"{folder.parent} has no steps"
        raise FileNotFoundError(f"No checkpoint {folder}: {listed}.")
    record = run / "run.json"
    if not record.is_file():
        raise FileNotFoundError(
            f"No {record}: {folder} is no checkpoint of a training run, which has its settings there."
        )
    step = RunStep(folder, _settings(record, folder.parent / METADATA))
    try:
        folders.check(step.base)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{run} started from {step.base}, whose config and tokenizer are needed: {error}") from error
    return step


def _settings(record: Path, metadata: Path) -> Mapping[str, Any]:
    """The settings in the newest entry of run.json that made the checkpoints.

    A later command with another model is rejected by the run, but leaves an entry.
    """
    runs = read_json(record).get("runs")
    entries = [run["config"] for run in runs if "config" in run] if isinstance(runs, list) else []
    tasks = {str(settings.get("task")) for settings in entries}
    if not tasks & set(TASKS):
        listed = ", ".join(sorted(tasks)) or "no task"
        raise ValueError(f"{record} is of {listed}: the models of {', '.join(TASKS)} are exported from a step.")
    described = read_json(metadata).get("custom_metadata") or {} if metadata.is_file() else {}
    for settings in reversed(entries):
        if settings.get("task") in TASKS and not describe_changes(
            {name: json.loads(value) for name, value in described.items()},
            {name: value for name, value in settings.items() if name in described},
        ):
            return settings
    raise ValueError(f"{record} has no run with the settings of the checkpoints in {metadata.parents[1]}.")
