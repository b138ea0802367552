"""The command that recalibrates an evaluation: what it writes, what it refuses, and the report of it."""

import json

import numpy as np
import pytest

from lc_jax.data import jsonl
from lc_jax.evaluation import metrics, results
from lc_jax.preflight import Problems
from lc_jax.tasks import recalibrate, report
from tests.evaluation.test_report import entry
from tests.test_configs import config_of


def write(folder, evaluation):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(evaluation.result))
    jsonl.write_jsonl(folder / "records.jsonl", evaluation.records)


@pytest.fixture
def recalibrated(tmp_path):
    """Recalibrates an evaluation of questions named after its method, and returns the new one."""

    def go(test, validation=None, **overrides):
        for name, evaluation in (("test", test), ("validation", validation)):
            if evaluation and not (tmp_path / "evaluation" / name).exists():
                write(tmp_path / "evaluation" / name, evaluation)
        config = config_of("recalibrate")
        config.evaluation, config.output = str(tmp_path / "evaluation/test"), str(tmp_path / "evaluation/new")
        config.validation = str(tmp_path / "evaluation/validation") if validation else ""
        config.update(overrides)
        assert not recalibrate.needs_devices(config)
        recalibrate.check(config)
        recalibrate.run(config, None)
        return results.read(tmp_path / "evaluation" / "new")

    return go


def questions(evaluation, prefix):
    """The same evaluation on other questions."""
    records = [{**row, "question": f"{prefix} {i}?"} for i, row in enumerate(evaluation.records)]
    return results.Entry(evaluation.result, records)


def test_a_validation_set_gives_the_map(recalibrated, tmp_path):
    test, validation = (questions(entry("LC SFT"), prefix) for prefix in ("Test", "Validation"))
    new = recalibrated(test, validation)
    assert (new.method, new.data) == ("LC SFT + isotonic", test.data)
    scored, old = new.scored(), test.scored()
    assert scored.correct == old.correct
    fitted = validation.scored()
    for level in sorted(set(old.confidences)):
        rows = [i for i, confidence in enumerate(old.confidences) if confidence == level]
        assert len({scored.confidences[i] for i in rows}) == 1
    confidences = [row["stated_confidence"] for row in new.records if row["status"] == "ok"]
    assert confidences == old.confidences
    assert np.mean(scored.confidences) == pytest.approx(np.mean(fitted.correct))  # the same confidences and verdicts
    assert new.result["brier"] == pytest.approx(metrics.brier(scored.confidences, scored.correct))
    assert new.result["settings"]["recalibration"]["map"] == "isotonic"
    folder = tmp_path / "evaluation" / "validation"
    assert new.result["notes"][-1] == f"recalibrated: fitted on {len(fitted.correct)} records of {folder}"
    assert [row for row in new.records if row["status"] != "ok"] == [r for r in test.records if r["status"] != "ok"]


def test_without_a_validation_set_the_map_is_cross_fitted_and_says_so(recalibrated, tmp_path):
    new = recalibrated(questions(entry("LC SFT"), "Test"), map="platt", num_folds=4)
    assert new.method == "LC SFT + Platt (cross-fitted)"
    assert "4 folds of its own" in new.result["notes"][-1]
    config = config_of("report")
    config.evaluations, config.output = str(tmp_path / "evaluation"), str(tmp_path / "report")
    report.run(config, None)
    text = (tmp_path / "report" / "table.md").read_text()
    assert "LC SFT + Platt (cross-fitted)" in text
    assert "LC SFT + Platt (cross-fitted)" in (tmp_path / "report" / "report.html").read_text()


def test_what_cannot_be_fitted_is_refused(recalibrated, tmp_path):
    test = questions(entry("LC SFT"), "Test")
    few = results.Entry(test.result, test.records[:9])
    with pytest.raises(Problems, match=r"--config.validation=.*judged records are too few for a fit.*min_records=30"):
        recalibrated(test, few)
    with pytest.raises(Problems, match=r"--config.map=cubic: give one of isotonic, platt, temperature, kind"):
        recalibrated(test, map="cubic")
    with pytest.raises(Problems, match=r"--config.num_folds=1: give a whole number of at least 2"):
        recalibrated(test, num_folds=1)
    with pytest.raises(Problems, match=r"--config.num_folds=900: .* has \d+ questions"):
        recalibrated(test, num_folds=900)
    with pytest.raises(Problems, match=r"--config.output=.*evaluation/test is the folder of --config.evaluation"):
        recalibrated(test, output=str(tmp_path / "evaluation" / "test"))
    with pytest.raises(Problems, match=r"--config.evaluation=nowhere: no nowhere/result.json"):
        recalibrated(test, evaluation="nowhere")
    assert not (tmp_path / "evaluation" / "new").exists()


def test_a_map_is_never_fitted_on_the_questions_that_it_is_tested_on(recalibrated):
    test = questions(entry("LC SFT"), "Test")
    with pytest.raises(Problems, match=r"questions are in .*test and in .*validation, for example 'Test 0\?"):
        recalibrated(test, test)


def test_kinds_are_needed_for_their_means(recalibrated):
    bare = [{**row, "kind": ""} for row in questions(entry("LC SFT"), "Test").records]
    with pytest.raises(Problems, match=r"no record of .* has a kind; take another map"):
        recalibrated(results.Entry(entry("LC SFT").result, bare), map="kind")
