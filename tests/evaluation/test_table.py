import dataclasses
import json

from lc_jax.evaluation import metrics, plots, published, table


def row(method, confidence, correct, kinds=None):
    summary = metrics.summarize(confidence, correct, kinds)
    return json.loads(json.dumps({"method": method, **dataclasses.asdict(summary)}))


FIRST = row("LC RL", [0.4, 0.6, 0.8, 1.0] * 10, [False, True, True, True] * 10, ["a", "b", "c", "d"] * 10)
SECOND = row("LC RL", [0.4, 0.6, 0.8, 1.0] * 10, [False, False, True, True] * 10, ["a", "b", "c", "d"] * 10)
OTHER = row("mine | own", [1.0] * 4, [True] * 4)


def test_rows_of_one_method_become_their_mean():
    lc, other = table.mean_over_seeds([FIRST, OTHER, SECOND])
    assert (lc["method"], lc["seeds"], lc["accuracy"]) == ("LC RL", 2, 0.625)
    assert lc["kinds"][1] == {"kind": "b", "confidence": 0.6, "accuracy": 0.5}
    assert (other["seeds"], other["accuracy"], other["kinds"]) == (1, 1.0, [])


def test_the_table_is_aligned_and_says_what_its_numbers_lack():
    text = table.render([FIRST, SECOND, OTHER])
    main, notes, kinds = text.strip().split("\n\n")
    for block in (main, kinds):
        assert len({len(line) for line in block.splitlines()}) == 1
    header, _, lc, mine = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in main.splitlines())
    assert dict(zip(header, lc, strict=False))["accuracy"] == "0.625"
    assert lc[-2:] == ["0.647", "0.108"]
    assert mine[0] == "mine \\| own"
    assert "-" in mine  # AUROC
    assert notes.splitlines() == [
        "- mine | own: fewer questions (4) than bins (20)",
        "- mine | own: one confidence for (nearly) everything",
        "- mine | own: no AUROC: all answers are right",
        "- Several seeds: every number is their mean, ends of intervals too.",
    ]
    assert "| b " in kinds
    assert "0.60 / 0.50" in kinds


def test_published_methods_without_confidence_lie_where_error_is_one_minus_accuracy():
    for name in ("Llama 2 7B 8-shot", "Claude Distill", "Factuality SFT", "Factuality RL"):
        assert round(published.TRIVIA_QA[name].accuracy + published.TRIVIA_QA[name].ece, 3) == 1
    assert min(published.TRIVIA_QA, key=lambda name: published.TRIVIA_QA[name].ece) == "LC RL"


def test_the_published_numbers_are_the_recorded_ones(golden):
    names = {"Llama 2 7B 8-shot": "ICL 8-Shot", "Llama 2 7B summary 8-shot": "Summary ICL 8-Shot"}
    lines = (golden / "data" / "qa_results.csv").read_text().splitlines()
    recorded = {tuple(cells[:2]): cells for cells in (line.split(",") for line in lines)}
    for name, ours in published.TRIVIA_QA.items():
        cells = recorded[names.get(name, name), "trivia_qa"]
        assert abs(float(cells[2]) - ours.accuracy) <= 0.0006
        assert abs(float(cells[5]) - ours.ece) <= 0.0006


def test_figures_are_written(tmp_path):
    plots.accuracy_against_ece([FIRST, SECOND, OTHER], tmp_path / "new" / "accuracy.png")
    failed = {"confidence": float("nan"), "correct": False, "status": "failed"}
    good = [{"confidence": c, "correct": c > 0.5, "status": "ok"} for c in (0.1, 0.5, 0.9)]
    plots.reliability({"LC RL": [failed, *good], "nothing": [failed]}, tmp_path / "reliability.png")
    for path in (tmp_path / "new" / "accuracy.png", tmp_path / "reliability.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_labels_keep_their_order_and_their_distance():
    assert plots._spread([0, 100, 200], 10).tolist() == [0, 100, 200]
    assert plots._spread([5, 0, 100], 10).tolist() == [7.5, -2.5, 100]
    assert plots._spread([0, 0, 12, 12], 10).tolist() == [-9, 1, 11, 21]
