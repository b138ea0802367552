"""The report's command: what it reads, what it refuses, what it leaves."""

import dataclasses
import json

import pytest

from lc_jax.data import jsonl
from lc_jax.tasks import report
from tests.evaluation.test_report import entry
from tests.test_configs import config_of


@pytest.fixture
def make(tmp_path):
    """Reports on evaluations that stand in folders a, b, ..."""

    def go(*entries, **overrides):
        for name, found in zip("abcd", entries, strict=False):
            folder = tmp_path / "evaluation" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text(json.dumps(found.result))
            jsonl.write_jsonl(folder / "records.jsonl", found.records)
        config = config_of("report")
        config.evaluations, config.output = str(tmp_path / "evaluation"), str(tmp_path / "report")
        config.update(overrides)
        assert not report.needs_devices(config)
        report.run(config, None)
        return tmp_path / "report"

    return go


def test_one_data_set(make, capsys):
    out = make(entry("other"), entry("Factuality RL", uses_confidence=False), entry("LC RL", 0.0, seed=2))
    rows = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in rows] == ["LC RL", "Factuality RL", "other"]
    assert {"seed", "num_questions", "accuracy", "ece", "brier", "auroc", "judge", "data"} <= set(rows[0])
    names = {f"{figure}.{suffix}" for figure in ("accuracy_against_ece", "reliability", "risk_coverage")
             for suffix in ("png", "pdf")}  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"results.json", "table.md", "report.html", *names}
    assert (out / "table.md").read_text() in capsys.readouterr().out


def test_several_data_sets_have_figures_of_their_own(make):
    out = make(entry("LC RL"), entry("LC RL", data="BioASQ, mine"))
    assert (out / "reliability_triviaqa.png").exists()
    assert (out / "risk_coverage_bioasq__mine.pdf").exists()
    assert "<h2><bdi>BioASQ, mine</bdi></h2>" in (out / "report.html").read_text()


def test_different_judges_are_refused_or_labelled(make):
    entries = entry("LC RL"), entry("LC SFT", judge="anthropic/claude-haiku-4-5")
    with pytest.raises(ValueError, match=r"claude-haiku-4-5.*gpt-4\.1.*--config.allow_different_judges=true"):
        make(*entries)
    out = make(*entries, allow_different_judges=True)
    text = (out / "report.html").read_text()
    assert "Different judges: their numbers cannot be compared." in text
    assert "LC SFT (judge anthropic/claude-haiku-4-5)" in (out / "table.md").read_text()


def test_rows_of_another_kind_are_shown_as_far_as_they_go(make):
    """Claims of biographies: pooled by entity, with fewer fields."""
    found = entry("LC RL", data="biographies")
    kept = (
        "method",
        "seed",
        "judge",
        "data",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "ece",
        "ece_low",
        "ece_high",
    )
    records = [
        {"entity": f"Person {i // 4}", "claim": "He sang.", "confidence": row["confidence"], "correct": row["correct"],
         "status": row["status"]}
        for i, row in enumerate(found.records)
    ]  # fmt: skip
    sparse = dataclasses.replace(found, result={name: found.result[name] for name in kept}, records=records)
    other = dataclasses.replace(sparse, result={**sparse.result, "method": "LC SFT"})
    out = make(sparse, other)
    assert "<h2><bdi>biographies</bdi></h2>" in (out / "report.html").read_text()


def test_what_is_missing_is_named(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*evaluation; run configs/evaluate_qa.py first"):
        make()
    found = entry("LC RL")
    with pytest.raises(ValueError, match=r"a/result.json lacks \['judge'\]; evaluate .* again"):
        make(dataclasses.replace(found, result={k: v for k, v in found.result.items() if k != "judge"}))
