"""The report's command: what it reads, what it refuses, what it leaves."""

import dataclasses
import json
import re
import shutil

import pytest

from lc_jax.data import jsonl
from lc_jax.evaluation import plots, summary
from lc_jax.tasks import report
from tests.evaluation.test_report import entry
from tests.test_configs import config_of


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Reports on evaluations in folders a, b, ...; its files of figures are empty."""
    names = (".png", ".pdf")
    monkeypatch.setattr(plots, "save", lambda _, stem: [stem.with_suffix(name).touch() for name in names])

    def go(*entries, **overrides):
        for name, one in zip("abcd", entries, strict=False):
            folder = tmp_path / "evaluation" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text(json.dumps(one.result))
            jsonl.write_jsonl(folder / "records.jsonl", one.records)
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
    figures = ("accuracy_against_ece", "accuracy_against_brier", "reliability", "risk_coverage")
    names = {f"{figure}.{suffix}" for figure in figures for suffix in ("png", "pdf")}
    assert {path.name for path in out.iterdir()} == {"results.json", "table.md", "report.html", *names}
    assert (out / "table.md").read_text() in capsys.readouterr().out


def test_paired_differences_from_the_baseline_are_in_the_table_and_the_results(make):
    out = make(entry("LC RL", 0.0), entry("LC SFT", 0.2), entry("other"), baseline="LC SFT")
    rows = {row["method"]: row for row in json.loads((out / "results.json").read_text())}
    change = rows["LC RL"]["differences"]
    assert change["baseline"] == "LC SFT"
    assert change["brier"]["difference"] == pytest.approx(rows["LC RL"]["brier"] - rows["LC SFT"]["brier"])
    assert change["brier"]["low"] < change["brier"]["difference"] < change["brier"]["high"]
    assert set(change) == {"baseline", "accuracy", "ece", "brier", "auroc", "overconfidence"}
    assert "differences" not in rows["LC SFT"]
    ends = "({low:+.3f} to {high:+.3f})".format(**change["brier"])
    assert f"{change['brier']['difference']:+.3f} {ends}" in (out / "table.md").read_text()


def test_the_agreement_of_judges_and_of_intrinsic_confidence_is_stated(make):
    other = entry("LC RL", judge="anthropic/claude-haiku-4-5")
    flipped = [{**row, "correct": not row["correct"]} if i == 0 else row for i, row in enumerate(other.records)]
    samples = entry("agreement of samples", seed=1)
    entries = entry("LC RL"), dataclasses.replace(other, records=flipped), samples
    out = make(*entries, allow_different_judges=True, intrinsic="agreement of samples")
    pages = (out / "table.md").read_text(), (out / "report.html").read_text()
    for text in pages:
        assert "give 99.2% of 119 equal answers the same verdict" in text
        assert "LC RL (judge openai/gpt-4.1), seed 0: stated confidence differs from that of" in text
    with pytest.raises(
        ValueError, match=r"--config.intrinsic='nobody' was not evaluated; there are \['LC RL', 'agreement of"
    ):
        make(*entries, allow_different_judges=True, intrinsic="nobody")


def test_several_data_sets_have_figures_of_their_own(make):
    out = make(entry("LC RL"), entry("LC RL", data="BioASQ, mine"))
    assert (out / "reliability_triviaqa.png").exists()
    assert (out / "risk_coverage_bioasq__mine.pdf").exists()
    assert "<h2><bdi>BioASQ, mine</bdi></h2>" in (out / "report.html").read_text()


def test_the_papers_results_alone_and_after_ones_own(make, tmp_path):
    out = make(evaluations="", paper=True)
    assert "## TriviaQA, the paper's" in (out / "table.md").read_text()
    assert len(list(out.glob("accuracy_against_ece_*.png"))) == 6
    assert json.loads((out / "results.json").read_text()) == []
    shutil.rmtree(out)
    out = make(entry("LC RL"), paper=True)
    text = (out / "table.md").read_text()
    assert "TriviaQA, the paper's" not in text
    assert "## SciQ, the paper's" in text
    assert (out / "accuracy_against_ece_triviaqa.png").is_file()
    with pytest.raises(ValueError, match=r"evaluations is empty: give a folder of evaluations, or --config.paper=true"):
        make(evaluations="")


def test_different_judges_are_refused_or_labelled(make):
    entries = entry("LC RL"), entry("LC SFT", judge="anthropic/claude-haiku-4-5")
    with pytest.raises(ValueError, match=r"claude-haiku-4-5.*gpt-4\.1.*--config.allow_different_judges=true"):
        make(*entries)
    out = make(*entries, allow_different_judges=True)
    text = (out / "report.html").read_text()
    assert "Different judges: their numbers cannot be compared." in text
    assert "LC SFT (judge anthropic/claude-haiku-4-5)" in (out / "table.md").read_text()


def test_a_stronger_judge_of_one_data_set_is_no_mixture(make):
    """SciQ and BioASQ may have another judge than TriviaQA: every table has one."""
    entries = [entry("LC RL"), entry("LC SFT"), entry("LC RL", data="SciQ", judge="openai/gpt-5")]
    text = re.sub("</?bdi>", "", (make(*entries) / "report.html").read_text())
    assert "read and judged by openai/gpt-4.1 on TriviaQA; openai/gpt-5 on SciQ" in text
    assert "Different judges" not in text
    with pytest.raises(ValueError, match=r"\['openai/gpt-4.1', 'openai/gpt-5'\] on 'SciQ'"):
        make(*entries, entry("LC SFT", data="SciQ"))
    out = make(*entries, entry("LC SFT", data="SciQ"), allow_different_judges=True)
    table = (out / "table.md").read_text()
    assert "LC SFT (judge openai/gpt-4.1)" in table.partition("## SciQ")[2]
    assert "judge" not in table.partition("## SciQ")[0]


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({}, False),
        ({"temperature": 1.0}, False),  # of the writer
        ({"judge_matches": True}, True),
        ({"wording": {"reasoning": True}}, True),
        ({"prompts": {"eval_extract": "b"}}, True),
        ({"prompts": {}}, False),  # an older version left none
    ],
)
def test_evaluations_under_different_rules_are_flagged(make, caplog, change, differ):
    settings = {"prompts": {"eval_extract": "a"}, "wording": {"reasoning": False}, "judge_matches": False}
    entries = [entry("LC RL"), entry("LC SFT"), entry("LC RL", data="SciQ")]
    for item, own in zip(entries, ({}, change, {"judge_matches": True}), strict=True):
        item.result["settings"] = settings | own
    text = (make(*entries) / "report.html").read_text()
    assert ("Different wordings or rules of judging: their numbers cannot be compared." in text) == differ
    assert ("The evaluations on TriviaQA differ in wordings or rules of judging" in caplog.text) == differ


def test_rows_of_another_kind_are_shown_as_far_as_they_go(make):
    """Claims of biographies: pooled by entity, with fewer fields."""
    one = entry("LC RL", data="biographies")
    record_lines = (
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
        for i, row in enumerate(one.records)
    ]  # fmt: skip
    sparse = dataclasses.replace(one, result={name: one.result[name] for name in record_lines}, records=records)
    other = dataclasses.replace(sparse, result={**sparse.result, "method": "LC SFT"})
    out = make(sparse, other)
    assert "<h2><bdi>biographies</bdi></h2>" in (out / "report.html").read_text()


def test_what_is_missing_is_named(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*evaluation; run configs/evaluate_qa.py first"):
        make()
    one = entry("LC RL")
    with pytest.raises(ValueError, match=r"a/result.json lacks \['judge'\]; evaluate .* again"):
        make(dataclasses.replace(one, result={k: v for k, v in one.result.items() if k != "judge"}))


def test_every_file_of_a_report_is_strict_json(make, tmp_path):
    """One answer: half of the numbers are undefined. Older versions wrote NaN, which is still read."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    fields = summary.summarize([1.0], [True])
    row = {"method": "m", "seed": 0, "judge": "j", "data": "d"} | dataclasses.asdict(fields)
    record = {"question_id": "q", "status": "ok", "confidence": 1.0, "correct": True, "paragraph": "x"}
    failed = {"question_id": "r", "status": "failed", "confidence": float("nan"), "correct": False}
    folder = tmp_path / "evaluation" / "old"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(row))
    (folder / "records.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(failed) + "\n")
    assert "NaN" in (folder / "result.json").read_text()
    out = make()
    (result,) = json.loads((out / "results.json").read_text(), parse_constant=refuse)
    assert result["auroc"] is None
    assert result["undefined"]["auroc"] == "all answers are right"
    for text in re.findall(r'type="application/json">(.*?)</script>', (out / "report.html").read_text()):
        json.loads(text, parse_constant=refuse)
    assert "| m      |    1.000 | 0.207 to 1.000 |" in (out / "table.md").read_text()


def test_one_evaluation_can_be_reported_by_itself(make, tmp_path):
    make(entry("LC RL"))
    out = make(evaluations=str(tmp_path / "evaluation" / "a"), output=str(tmp_path / "own"))
    assert out.exists()
    assert json.loads((tmp_path / "own" / "results.json").read_text())[0]["method"] == "LC RL"


def test_all_that_is_wrong_with_several_folders_is_said_at_once_and_nothing_is_written(make, tmp_path):
    make(entry("LC RL"))
    shutil.rmtree(tmp_path / "report")
    result = (tmp_path / "evaluation" / "a" / "result.json").read_text()
    for name, text in (("cut", result[:50]), ("list", "[]"), ("foreign", '{"loss": 1}'), ("alone", result)):
        (tmp_path / "evaluation" / name).mkdir()
        (tmp_path / "evaluation" / name / "result.json").write_text(text)
    with pytest.raises(ValueError, match="cut off") as error:
        make()
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    for name, line in zip(("alone", "cut", "foreign", "list"), lines, strict=True):
        assert f"evaluation/{name}" in line
        assert "again, or move that folder away" in line
    assert "has result.json but no records.jsonl" in lines[0]
    assert "lacks ['method', 'data', 'judge', 'seed', 'accuracy', 'ece']" in lines[2]
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"confidence": None}, r"row 1: confidence None of a judged row is not in \[0, 1\]"),
        ({"confidence": 1.5}, r"row 1: confidence 1\.5 of a judged row"),
        ({"correct": "yes"}, r"row 1: correct 'yes' of a judged row is neither true nor false"),
        ({"status": None, "question_id": ""}, r"row 1: no 'status', or neither 'question_id' nor 'entity'"),
    ],
)
def test_a_record_that_cannot_be_shown_is_named(make, change, why):
    one = entry("LC RL")
    records = [{**one.records[0], **change}, *one.records[1:]]
    with pytest.raises(ValueError, match=rf"a/records\.jsonl, {why}.*; evaluate .* again"):
        make(dataclasses.replace(one, records=records))


def test_one_seed_twice_is_refused_and_two_are_averaged(make):
    with pytest.raises(
        ValueError,
        match=r"evaluation/a and .*evaluation/b both hold 'LC RL' on 'TriviaQA' with seed 0: .*--config.seed",
    ):
        make(entry("LC RL"), entry("LC RL", 0.2))
    out = make(entry("LC RL"), entry("LC RL", 0.2, seed=1))
    (line,) = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("| LC RL")]
    assert line.split(" | ")[14].strip() == "2"  # seeds
    page = (out / "report.html").read_text()
    assert "LC RL, mean of 2 seeds" in page
    values = [entry("LC RL").result["accuracy"], entry("LC RL", 0.2, seed=1).result["accuracy"]]
    mean, spread = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
    assert f"<span>{mean:.3f}<small>± {spread:.3f}</small></span>" in page.replace("\n", "")


def test_a_folder_that_was_not_finished_is_left_out_with_a_word(make, tmp_path, caplog):
    (tmp_path / "evaluation" / "begun").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"No \*/result.json under .*evaluation; run configs/evaluate_qa.py"):
        make()
    with caplog.at_level("WARNING"):
        make(entry("LC RL"))
    assert "evaluation/begun is left out: it has no result.json" in caplog.text


def test_a_failure_half_way_leaves_the_older_report(make, monkeypatch):
    out = make(entry("LC RL"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(report.plots, "save", fail)
    with pytest.raises(OSError, match="no space"):
        make(entry("LC RL", 0.3))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_data_sets_whose_names_differ_in_signs_only_keep_their_own_figures(make):
    out = make(entry("LC RL", data="a b"), entry("LC RL", data="a-b"))
    assert (out / "reliability_a_b.png").exists()
    assert (out / "reliability_a_b_.png").exists()
