"""Model selection (paper section 5): the best calibrated of the checkpoints with the best validation rewards.

Training keeps the candidates (ppo.num_candidates), configs/evaluate_qa.py evaluates them, and this keeps one.
`launch/select.sh RUN` does the last two.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lc_jax import preflight
from lc_jax.data import jsonl
from lc_jax.evaluation import results
from lc_jax.models import layout
from lc_jax.text_table import table
from lc_jax.training.exports import Candidate, load_candidates


def _row(folder: Path, candidate: Candidate) -> dict[str, Any]:
    """Returns the results of one candidate for the selection.

    Raises:
      FileNotFoundError: it was not evaluated.
      ValueError: its result cannot be read, or lacks a number.
    """
    path = candidate.folder(folder) / "evaluation" / "result.json"
    if not path.is_file():
        raise FileNotFoundError(f"No {path}; `launch/select.sh {folder}` evaluates all candidates.")
    result = results.read_result(path)
    undefined = [name for name in ("accuracy", "ece", "num_questions") if math.isnan(results.number(result, name))]
    if undefined:
        raise ValueError(
            f"{path} has no number for {', '.join(undefined)}: remove {path.parent} and evaluate it again."
        )
    fields = {name: result[name] for name in ("accuracy", "ece", "num_questions", "judge", "data")}
    return {"step": candidate.step, "validation_reward": candidate.validation_reward, **fields}


RECORD = "{run}/selection.run.json"


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Puts the candidate of `config.run` with the lowest ECE into `<run>/selected`; the table goes to selection.json.

    Raises:
      FileNotFoundError: the run has no candidates.
      ValueError: some were not evaluated, or have no ECE; or by different judges or on different questions.
    """
    folder = Path(config.run)
    candidates = load_candidates(folder)
    if not candidates:
        raise FileNotFoundError(f"{folder}/candidates holds none: train with ppo.num_candidates above 0.")
    rows = preflight.check_all(*(functools.partial(_row, folder, candidate) for candidate in candidates))
    for field in ("judge", "data"):
        if len({row[field] for row in rows}) > 1:
            raise ValueError(f"The candidates of {folder} differ in {field}: {[row[field] for row in rows]}.")
    best = min(range(len(rows)), key=lambda i: rows[i]["ece"])  # of equal ones that with the better reward
    with layout.new_folder(folder / "selected") as selected:
        # Hard links: the same bytes on the disk.
        model = candidates[best].folder(folder) / "model"
        shutil.copytree(model, selected, copy_function=os.link, dirs_exist_ok=True)
    jsonl.write_json(folder / "selection.json", {"selected": rows[best], "candidates": rows})
    header = ["step", "validation reward", "accuracy", "ECE", ""]
    cells = [
        [str(r["step"]), *(f"{r[k]:.3f}" for k in ("validation_reward", "accuracy", "ece")), "*" if i == best else ""]
        for i, r in enumerate(rows)
    ]
    print(table([header, *cells], markdown=True))
    print(f"\nMade {folder}/selected from step {rows[best]['step']}, the candidate with the lowest ECE.")
