"""Model selection: which checkpoints a run keeps, and which of them is selected."""

import importlib
import json

import pytest

from lc_jax.training.exports import Candidate, Candidates, load_candidates
from tests.test_configs import config_of


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(folder.parent.name)


def train(run, rewards, keep=2, first=40):
    """Offers a checkpoint every 20 steps; gives the steps kept."""
    candidates = Candidates(run, keep, first)
    for i, reward in enumerate(rewards, 1):
        candidates.offer(Candidate(20 * i, reward), write)
    return [c.step for c in load_candidates(run)]


def test_a_run_keeps_the_best_validation_rewards(tmp_path):
    # The best of all comes too early; 80 beats 40; of the equal 100 and 120 the earlier stays.
    assert train(tmp_path, [9.0, 0.1, 0.2, 0.5, 0.4, 0.4]) == [80, 100]
    assert {path.name for path in (tmp_path / "candidates").iterdir()} == {"step-000080", "step-000100"}
    resumed = Candidates(tmp_path, 2, 40)
    resumed.offer(Candidate(140, 0.45), write)
    assert [c.step for c in load_candidates(tmp_path)] == [80, 140]
    assert train(tmp_path / "none", [1.0, 2.0, 3.0], keep=0) == []


def evaluate(run, eces, **changes):
    for candidate, ece in zip(load_candidates(run), eces, strict=True):
        row = {"method": "m", "seed": 0, "accuracy": 0.5, "ece": ece, "num_questions": 9, "judge": "j", "data": "d"}
        row |= changes
        (candidate.folder(run) / "evaluation").mkdir(exist_ok=True)
        (candidate.folder(run) / "evaluation" / "result.json").write_text(json.dumps(row))


def select(run):
    config = config_of("select_checkpoint")
    config.run = str(run)
    importlib.import_module("lc_jax.tasks.select_checkpoint").run(config, None)


def test_the_best_calibrated_candidate_is_selected(tmp_path, capsys):
    train(tmp_path, [0, 1, 2, 3], keep=3)
    evaluate(tmp_path, [0.3, 0.1, 0.2])  # by validation reward: steps 80, 60, 40
    select(tmp_path)
    assert (tmp_path / "selected" / "config.json").read_text() == "step-000060"
    selection = json.loads((tmp_path / "selection.json").read_text())
    assert (selection["selected"]["step"], selection["selected"]["ece"]) == (60, 0.1)
    assert [row["step"] for row in selection["candidates"]] == [80, 60, 40]
    assert "| 60   |             2.000 |    0.500 | 0.100 |   * |" in capsys.readouterr().out
    evaluate(tmp_path, [0.1, 0.1, 0.2])
    select(tmp_path)  # again, in place of the older one
    assert (tmp_path / "selected" / "config.json").read_text() == "step-000080"


def test_what_is_missing_or_mixed_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ppo\.num_candidates"):
        select(tmp_path)
    train(tmp_path, [0, 1, 2])
    with pytest.raises(ValueError, match=r"No .*step-000060/evaluation/result\.json"):
        select(tmp_path)
    evaluate(tmp_path, [0.1, 0.2])
    path = tmp_path / "candidates" / "step-000040" / "evaluation" / "result.json"
    path.write_text(path.read_text().replace('"j"', '"another"'))
    with pytest.raises(ValueError, match="differ in judge"):
        select(tmp_path)


@pytest.mark.parametrize("undefined", ["null", "NaN"])
def test_a_candidate_without_an_error_is_named_and_nothing_is_selected(tmp_path, undefined):
    train(tmp_path, [0, 1, 2])
    evaluate(tmp_path, [0.1, 0.2])
    path = tmp_path / "candidates" / "step-000040" / "evaluation" / "result.json"
    path.write_text(path.read_text().replace('"ece": 0.2', f'"ece": {undefined}'))
    with pytest.raises(ValueError, match=r"step-000040/evaluation/result\.json has no number for ece: remove .*again"):
        select(tmp_path)
    path.write_text(path.read_text()[:30])
    with pytest.raises(ValueError, match=r"step-000040/evaluation/result\.json is not JSON .*cut off"):
        select(tmp_path)
    assert not (tmp_path / "selected").exists()
    assert not (tmp_path / "selection.json").exists()
