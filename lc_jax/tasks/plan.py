"""What stages would take: their models, memory, hours and API cost. Nothing is run, loaded or asked.

Hours follow from what one device was measured to reach (benchmarks/results), taken to scale with the devices.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lc_jax import miniature, parallel
from lc_jax.evaluation.published import PROMPTS
from lc_jax.evaluation.table import markdown
from lc_jax.inference import generate
from lc_jax.llm import capabilities
from lc_jax.models import folders, registry
from lc_jax.models.hub import is_difference
from lc_jax.planning import requests
from lc_jax.planning.requests import NUM_ANSWERS
from lc_jax.planning.stages import load
from lc_jax.preflight import POSITIVE_INT, check_settings
from lc_jax.rl.plan import writing
from lc_jax.training import plan

RECORD = ""

# Rows of the published sets (paper, appendix), and of the miniature's.
ROWS = {"sft": 10_000, "reward_model": 20_000, "TriviaQA": 11_313, "Jeopardy": 10_638, "SciQ": 13_679, "BioASQ": 1_515,
        "biographies": 500}  # fmt: skip
MINIATURE_ROWS = 800
MINIATURE_MODELS = Path(miniature.__file__).parent / "checkpoints"
# Assumed of an average text, from the published data: tokens, and what else a row holds.
SEQUENCE, PARAGRAPH, PROMPT = {"sft": 250, "reward_model": 350}, 200, 128


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the plan; NaN = unknown."""

    name: str
    models: str
    memory: float  # GB a device at the peak
    hours: float
    dollars: float


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Prints a table of the stages in `config.stages`, and their sums.

    Raises:
      ValueError: a line is not a name with flags of lc_jax.main.
    """
    figures = _figures(Path(config.figures))
    stages = [_stage(s.name, s.config, figures, config.num_devices) for s in load(config.stages, config.profile)]
    header = ["stage", "models", "GB a device", "hours", "API $"]
    total = Stage("all", "", math.nan, sum(s.hours for s in stages), sum(s.dollars for s in stages))
    cells = [[s.name, s.models, _number(s.memory), _number(s.hours), _number(s.dollars)] for s in [*stages, total]]
    print(markdown([header, *cells]))
    print(f"\n{config.num_devices} devices. '-' is unknown. API prices as read on {capabilities.PRICED}, at most.")
    if not figures:
        print(f"No figures in {config.figures}: on the machine itself run `python -m benchmarks.sft_step --full`,")
        print("and benchmarks.generate and benchmarks.ppo_step in the same way, for hours.")


def check(config: ConfigDict) -> None:
    """Refuses a file of stages that is not there, or no devices."""
    check_settings("", config, num_devices=POSITIVE_INT)
    if not Path(config.stages).is_file():
        raise FileNotFoundError(
            f"--config.stages={config.stages}: no such file; `launch/reproduce.sh --plan` writes one and calls this."
        )


def needs_devices(config: ConfigDict) -> bool:
    """A plan is made on any machine."""
    return False


def _stage(name: str, config: ConfigDict, figures: Mapping[str, Any], num_devices: int) -> Stage:
    paths = [part[key] for part, key in _model_fields(config)]
    models = list(dict.fromkeys(_shape(path, _is_miniature(config))[0] for path in paths))
    seconds = _seconds(config, figures) / num_devices
    dollars = _dollars(config)
    return Stage(name, ", ".join(models), memory(config, num_devices), seconds / 3600, dollars)


def _model_fields(config: ConfigDict) -> list[tuple[ConfigDict, str]]:
    """Where the config names models that work in this stage: (part of the config, field)."""
    if config.get("what", "paragraphs") != "paragraphs":
        return []
    fields = [(config, key) for key in ("model", "policy", "critic")]
    fields += [(config.reader, key) for key in ("extractor", "forecaster")] if config.task == "ppo" else []
    return [(part, key) for part, key in fields if part.get(key)]


def memory(config: ConfigDict, num_devices: int) -> float:
    """GB (1e9 bytes) that a device holds at the peak of the stage, as its task plans it; 0 without a model."""
    fields = _model_fields(config)
    if not fields:
        return 0.0
    config = config.copy_and_resolve_references()
    for part, key in _model_fields(config):
        part[key] = _stand_in(part[key], _is_miniature(config))
    mesh = parallel.planned_mesh(num_devices, **config.mesh)
    task = importlib.import_module(f"lc_jax.tasks.{config.task}")
    with jax.sharding.use_abstract_mesh(mesh):
        found = task.planned(config, mesh) if hasattr(task, "planned") else _writing(config, mesh)
    return max(phase.total for phase in found.phases) / plan.GB


def _writing(config: ConfigDict, mesh: jax.sharding.AbstractMesh) -> plan.Plan:
    """The plan of a checkpoint that writes paragraphs."""
    precision = dict(config.precision, param_dtype=config.precision.compute_dtype)
    model = plan.outline(config.model, mesh, **precision)
    return writing(model, config.batch_size, PROMPT, generate.Sampling(config.max_new_tokens, config.temperature))


def _is_miniature(config: ConfigDict) -> bool:
    return config.precision.compute_dtype == "float32"


def _stand_in(path: str, is_miniature: bool) -> str:
    """A folder or a preset of the same shape: the path itself where it is here, else what its name says of it."""
    if Path(path).is_dir():
        return path
    known = path.lower()
    is_reader = not is_difference(path) and any(word in known for word in ("redpajama", "extract_answers", "extract-"))
    if is_miniature:  # not trained yet
        return str(MINIATURE_MODELS / ("gpt_neox" if is_reader else "llama"))
    return "redpajama-incite-3b" if is_reader else "llama-2-13b" if "13b" in known else "llama-2-7b"


def _shape(path: str, is_miniature: bool) -> tuple[str, float]:
    """Name and parameters of a model."""
    found = _stand_in(path, is_miniature)
    is_folder = Path(found).is_dir()
    config = folders.config_of(found)[0] if is_folder else registry.from_preset(found)
    name = type(config).__name__.removesuffix("Config") if is_folder else found
    params = float(sum(leaf.size for _, leaf in registry.flat(registry.abstract(config).params)))
    return f"{name} ({params / 1e6:,.0f}M)", params


def _num_rows(config: ConfigDict) -> int:
    """Questions or rows that the stage works through."""
    limit = config.get("limit") or 10**9
    if _is_miniature(config):
        return min(limit, MINIATURE_ROWS)
    if config.task in ("sft", "reward_model"):
        return ROWS["reward_model" if "reward_model" in config.data.rows.source else "sft"]
    data = config.get("data", "")
    if config.task == "generate_data" and config.questions.split == "test":
        data = next((data for data, name in PROMPTS.items() if f":{name}_" in config.questions.source), "")
    return min(limit, ROWS.get(data, ROWS["TriviaQA"]))


def _figures(folder: Path) -> dict[str, Any]:
    """{(benchmark, size): its first row} of the JSON files that benchmarks leave; the last file of a kind wins."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        if record.get("rows") and record.get("size"):
            found[f"{record['benchmark']} {record['size']['name']}"] = record["rows"][0]
    return found


def _seconds(config: ConfigDict, figures: Mapping[str, Any]) -> float:
    """On one device of the kind that was measured; NaN where it was not."""
    size = "miniature" if _is_miniature(config) else "7B"
    if config.task in ("sft", "reward_model"):
        row = figures.get(f"sft_step {size}")
        if row is None:
            return math.nan
        each = 1 if config.data.recipe != "forecast_probs" else 1 + NUM_ANSWERS
        tokens = _num_rows(config) * each * SEQUENCE[config.task] * config.fit.num_epochs
        return 6 * _shape(config.model, _is_miniature(config))[1] * tokens / (row["notes"]["TFLOP/s"] * 1e12)
    if config.task == "ppo":
        row = figures.get(f"ppo_step {size}")
        if row is None:
            return math.nan
        layers = registry.from_preset("llama-2-7b").num_layers if size == "7B" else row["notes"]["layers"]
        scale = config.ppo.rollout_batch_size / row["notes"]["episodes"] * layers / row["notes"]["layers"]
        return config.ppo.num_steps * scale * row["seconds"]
    row = figures.get(f"generate {size}")
    if not _model_fields(config):
        return 0.0
    if row is None:
        return math.nan
    return _num_rows(config) * config.get("num_samples", 1) * PARAGRAPH / row["notes"]["tokens per second"]


def _dollars(config: ConfigDict) -> float:
    """At most, at list prices; NaN where the annotator has none."""
    found = requests.estimates(config, _num_rows(config))
    return requests.dollars(found, batch=bool(config.annotator.batch)) if found else 0.0


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
