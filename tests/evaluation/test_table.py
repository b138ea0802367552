import dataclasses
import json

import pytest

from lc_jax.data import jsonl
from lc_jax.evaluation import intervals, plots, published, summary, table


def row(method, confidence, correct, kinds=None):
    fields = summary.summarize(confidence, correct, kinds)
    return json.loads(jsonl.dumps({"method": method, "data": "TriviaQA", **dataclasses.asdict(fields)}))


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
    assert header[:2] + header[3:4] + header[5:8] == ["method", "accuracy", "ECE", "Brier", "AUROC", "n"]
    assert dict(zip(header, lc, strict=False))["accuracy"] == "0.625 ± 0.177"  # of .75 and .5
    assert lc[-2:] == ["0.647", "0.108"]
    assert mine[0] == "mine \\| own"
    assert dict(zip(header, mine, strict=False))["AUROC"] == "–"
    assert notes.splitlines() == [
        "- LC RL: no interval for AUROC: every resample gives the same value",
        "- mine | own: fewer questions (4) than bins (20)",
        "- mine | own: one confidence for (nearly) everything",
        "- mine | own: no AUROC: all answers are right",
        "- mine | own: no interval for ECE, Brier, overconfidence: every resample gives the same value",
        "- Several seeds: every number is their mean, ends of intervals too; ± their standard deviation.",
    ]
    assert "| b " in kinds
    assert "0.60 / 0.50" in kinds


def test_differences_from_a_method_have_a_table_of_their_own():
    def change(value):
        return {"baseline": "LC SFT", "ece": {"difference": value, "low": value - 0.1, "high": None}}

    text = table.render([OTHER, FIRST | {"differences": change(0.1)}, SECOND | {"differences": change(0.3)}])
    (block,) = [block for block in text.split("\n\n") if block.startswith("| less LC SFT")]
    header, _, line = [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in block.splitlines()]
    cells = dict(zip(header, line, strict=True))
    assert (cells["less LC SFT"], cells["ECE"]) == ("LC RL", "+0.200 (+0.100 to –)")
    assert "less" not in table.render([FIRST])


def test_data_sets_have_tables_of_their_own():
    text = table.render([FIRST | {"data": "TriviaQA"}, OTHER | {"data": "Jeopardy"}, SECOND | {"data": "Jeopardy"}])
    trivia, jeopardy = text.split("## Jeopardy")
    assert trivia.startswith("## TriviaQA")
    assert "0.647" in trivia  # the paper's accuracy of LC RL there
    assert "0.657" in jeopardy


def test_the_papers_columns_are_shown_with_its_own_questions_only():
    own = {"source": "mine.jsonl"}
    theirs = {"source": "/data/copy:trivia_qa_paragraph_generation", "answers": "mandarjoshi/trivia_qa"}
    assert "paper accuracy" in table.render([FIRST])  # says nothing of its questions: the name decides
    assert "paper accuracy" in table.render([FIRST | {"settings": {"questions": theirs}}])
    for row in (
        FIRST | {"settings": {"questions": own}},
        FIRST | {"settings": {"questions": {}}},  # questions of the file of paragraphs
        FIRST | {"data": "mine"},
        FIRST | {"data": "Jeopardy", "settings": {"questions": theirs}},
    ):
        assert "paper" not in table.render([row])


@pytest.mark.parametrize("undefined", [None, float("nan")], ids=["null", "NaN, as older versions wrote it"])
def test_undefined_numbers_are_dashes(undefined):
    old = {"method": "m", "data": "mine", "seed": 0, "accuracy": 1.0, "accuracy_low": 0.2, "accuracy_high": 1.0}
    old |= {"num_questions": 1, "ece": 0.3, "ece_low": undefined, "ece_high": undefined, "auroc": undefined}
    header, _, line = table.render([old]).strip().splitlines()
    cells = [[cell.strip() for cell in text.strip("| ").split(" | ")] for text in (header, line)]
    assert cells[1] == ["m", "1.000", "0.200 to 1.000", "0.300", "–", "–", "–", "1", *["–"] * 6, "1"]
    assert len(cells[0]) == len(cells[1])


def reliability_bars(records):
    """(lower ends, upper ends) of the bars of a reliability curve."""
    axes = plots.reliability({"m": records}).axes[0]
    (bars,) = axes.containers[0].lines[2]
    return zip(*(segment[:, 1] for segment in bars.get_segments()), strict=True)


def test_a_fifth_method_is_drawn_below_the_first():
    rows = [{"status": "ok", "confidence": 0.7, "correct": 1, "question_id": "q"}]
    figure = plots.reliability(dict.fromkeys("abcde", rows))
    figure.draw_without_rendering()
    places = {axes.get_title(): axes.get_position() for axes in figure.axes if axes.get_title()}
    assert list(places) == list("abcde")
    assert len(figure.axes) == 10
    assert places["e"].x0 == pytest.approx(places["a"].x0)
    assert places["e"].y1 < places["a"].y0
    assert places["d"].y0 == pytest.approx(places["a"].y0)


def test_one_answer_has_wilsons_bar_in_the_reliability_curve():
    low, high = reliability_bars([{"confidence": 0.8, "correct": False, "status": "ok"}])
    assert (*low, *high) == pytest.approx((0, 0.7935), abs=5e-5)
    low, high = reliability_bars([{"confidence": 0.8, "correct": True, "status": "ok"}])
    assert (*low, *high) == pytest.approx((0.2065, 1), abs=5e-5)
    ten = [{"confidence": 0.8, "correct": i < 8, "status": "ok"} for i in range(10)]
    low, high = reliability_bars(ten)
    assert (*low, *high) == pytest.approx((0.4902, 0.9433), abs=5e-5)


def test_claims_of_one_biography_are_one_trial_in_the_reliability_curve():
    claims = [{"entity": "Ada", "confidence": 0.8, "correct": i < 8, "status": "ok"} for i in range(10)]
    low, high = reliability_bars(claims)
    assert (*low, *high) == pytest.approx(intervals.wilson(0.8, 1))


def test_figures_take_what_is_undefined_and_any_name():
    name = "_$x$ \\frac{ " + "\u05e9\u05dc\u05d5\u05dd \U0001f600 " + "long " * 30
    result = {"method": name, "accuracy": 1.0, "ece": None}
    records = [{"confidence": 1.0, "correct": True, "status": "ok"}]
    for row in (result, result | {"ece": 0.2, "ece_low": None, "accuracy_low": 0.2, "accuracy_high": 1.0}):
        assert b"<svg" in plots.svg(plots.accuracy_against("ece", [row]))
        assert b"<svg" in plots.svg(plots.accuracy_against("brier", [row]))
    assert b"<svg" in plots.svg(plots.reliability({name: records}))
    figure = plots.risk_coverage({name: records})
    assert len(figure.axes[0].get_legend().get_texts()) == 1
    assert b"<svg" in plots.svg(figure)


def test_published_methods_without_confidence_lie_where_error_is_one_minus_accuracy():
    silent = ("Llama 2 7B 8-shot", "Claude Distill", "Factuality SFT", "Factuality RL", "GPT-4 0-shot")
    rows = [row for row in published.tables() if row.method in silent]
    assert len(rows) > 20
    assert all(row.accuracy + row.ece == pytest.approx(1, abs=0.0011) for row in rows)
    trivia = {name: row for name, row in published.by_method("TriviaQA").items() if "GPT" not in name}
    assert min(trivia, key=lambda name: trivia[name].ece) == "LC RL"
    assert published.by_method("mine") == {}


def test_the_published_ratios_of_the_method():
    """LC RL / LC SFT and LC RL / Factuality RL, as the paper states them."""
    for data, of_sft, of_rl in (("TriviaQA", 0.65, 0.29), ("Jeopardy", 0.54, 0.25), ("SciQ", 0.68, 0.49),
                                ("BioASQ", 0.88, 0.55), ("biographies", 0.88, 0.44)):  # fmt: skip
        rows = published.by_method(data)
        assert rows["LC RL"].ece / rows["LC SFT"].ece == pytest.approx(of_sft, abs=0.006)
        assert rows["LC RL"].ece / rows["Factuality RL"].ece == pytest.approx(of_rl, abs=0.006)
        notes = [f"ECE of LC RL / LC SFT: {of_sft:.2f}", f"ECE of LC RL / Factuality RL: {of_rl:.2f}"]
        assert published.ratio_notes({}, rows) == notes
        assert all(f"- {note}" in table.render_published(data) for note in notes)
        notes = published.ratio_notes({"LC RL": 0.1, "LC SFT": 0.4, "other": 0.1}, rows)
        assert notes == [f"ECE of LC RL / LC SFT: 0.25 (paper {of_sft:.2f})"]
    assert published.ratio_notes({"LC RL": 0.1, "LC SFT": 0.0}, rows) == []


def test_ratios_are_shown_on_the_papers_data_only():
    sft = SECOND | {"method": "LC SFT"}
    text = table.render([FIRST, SECOND | {"seed": 1}, sft])
    ratio = (FIRST["ece"] + SECOND["ece"]) / 2 / SECOND["ece"]
    assert f"- ECE of LC RL / LC SFT: {ratio:.2f} (paper 0.65)\n" in text
    assert "LC RL / LC SFT" not in table.render([FIRST | {"data": "mine"}, sft | {"data": "mine"}])


def test_the_paper_s_table():
    """Halves are rounded up, as in the paper's text."""
    lines = table.render_published("biographies").splitlines()
    assert lines[0] == "## biographies, the paper's"
    cells = {
        row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:])
    }
    assert cells["method (paper)"] == ["accuracy", "95%", "ECE", "95%"]
    assert cells["LC RL"] == ["0.468", "0.455 to 0.481", "0.266", "0.253 to 0.280"]
    assert cells["GPT-4 asked for uncertainty"][0] == "0.760"  # .7595
    assert table.render_published("BioASQ").count("–") == 8  # GPT-4 has no intervals there
    assert published.data_sets() == [
        *("TriviaQA", "Jeopardy", "SciQ", "BioASQ", "biographies", "TriviaQA, human readers")
    ]


def test_the_published_numbers_are_the_recorded_ones(golden):
    names = {"ICL 8-Shot": "Llama 2 7B 8-shot", "Summary ICL 8-Shot": "Llama 2 7B summary 8-shot"}
    sets = {"trivia_qa": "TriviaQA", "jeopardy": "Jeopardy", "sciq": "SciQ", "bioasq": "BioASQ"}
    sets["factscore"] = "biographies"
    lines = [
        line.split(",")
        for name in ("qa_results", "biography_generation_results")
        for line in (golden / "data" / f"{name}.csv").read_text().splitlines()[1:]
    ]
    assert len(lines) == 60
    assert len(published.tables()) == 60 + 3  # human readers
    for method, data, *numbers in lines:
        ours = sorted(dataclasses.astuple(row)[2:] for row in published.tables() if row.data == sets[data])
        theirs = tuple(map(float, numbers))
        assert any(repr(value) == repr(theirs) for value in ours), (method, data)
        if method in ("LC RL", "LC SFT", *names):
            assert repr(dataclasses.astuple(published.by_method(sets[data])[names.get(method, method)])[2:]) == repr(
                theirs
            )


def test_figures_are_written(tmp_path):
    rows = [{"confidence": c, "correct": c > 0.5, "status": "ok"} for c in (0.1, 0.5, 0.9)]
    failed = {"confidence": float("nan"), "correct": False, "status": "failed"}
    theirs = list(published.by_method("TriviaQA").values())
    figures = {
        "accuracy": plots.accuracy_against("ece", [FIRST, SECOND, OTHER], theirs),
        "reliability": plots.reliability({"LC RL": [failed, *rows], "nothing": [failed]}),
        "risk": plots.risk_coverage({"LC RL": [failed, *rows], "nothing": [failed]}),
    }
    for name, figure in figures.items():
        plots.save(figure, tmp_path / "new" / name)
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "new" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert b"<svg" in plots.svg(figure)


def test_risk_starts_at_that_of_the_most_confident_answers():
    rows = [{"confidence": c, "correct": right, "status": "ok"} for c, right in ((1, True), (1, False), (0.5, False))]
    figure = plots.risk_coverage({"two": rows, "one": rows[:2]})
    two, one = (line.get_xydata().tolist() for line in figure.axes[0].get_lines())
    assert two == [[0, 0.5], [pytest.approx(2 / 3), 0.5], [1, pytest.approx(2 / 3)]]
    assert one == [[0, 0.5], [1, 0.5]]  # a single confidence is a flat line


def test_published_rows_are_hollow_and_in_the_colour_of_their_method():
    figure = plots.accuracy_against("ece", [FIRST, OTHER], list(published.by_method("TriviaQA").values()))
    lines = {line.get_xydata().tolist()[0][0]: line for line in figure.axes[0].get_lines()}
    theirs, ours = lines[0.108], lines[FIRST["ece"]]
    assert (theirs.get_markerfacecolor(), theirs.get_color()) == ("white", ours.get_color())
    bars = [sorted(bar.get_segments()[0].tolist()) for bar in figure.axes[0].collections]
    assert [[pytest.approx(0.101), pytest.approx(0.6474)], [pytest.approx(0.117), pytest.approx(0.6474)]] in bars
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names.count("LC RL") == 1
    assert {"LC SFT", "hollow: the paper's"} <= set(names)


def test_a_point_lies_at_its_error_and_its_accuracy():
    [point] = plots.accuracy_against("brier", [FIRST]).axes[0].get_lines()
    assert point.get_xydata().tolist() == [[FIRST["brier"], FIRST["accuracy"]]]
    [point] = plots.accuracy_against("ece", [FIRST]).axes[0].get_lines()
    assert point.get_xydata().tolist() == [[FIRST["ece"], FIRST["accuracy"]]]


def test_labels_keep_their_order_and_their_distance():
    assert plots._spread([0, 100, 200], 10).tolist() == [0, 100, 200]
    assert plots._spread([5, 0, 100], 10).tolist() == [7.5, -2.5, 100]
    assert plots._spread([0, 0, 12, 12], 10).tolist() == [-9, 1, 11, 21]


def test_many_methods_leave_room_for_the_curves():
    rows = [{"confidence": c, "correct": c > 0.5, "status": "ok"} for c in (0.1, 0.5, 0.9)]
    figure = plots.risk_coverage({f"RLCR, decoupled tokens + isotonic, {i}": rows for i in range(28)})
    figure.canvas.draw()  # fixes the layout; matplotlib warns if there is none
    (axes,) = figure.axes
    box, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
    assert box.width > 0.5 * figure.bbox.width
    assert legend.x0 >= box.x1
    assert legend.y0 >= 0
    assert legend.x1 <= figure.bbox.x1


def test_many_methods_have_one_point_each_and_a_legend():
    rows = [{"method": f"m{i}", "accuracy": 0.5 + seed / 10, "ece": i / 40} for i in range(9) for seed in (0, 2)]
    (axes,) = plots.accuracy_against("ece", rows).axes
    points = [tuple(map(float, line.get_xydata()[0])) for line in axes.get_lines() if line.get_marker() != "None"]
    assert [x for x, _ in points] == pytest.approx([i / 40 for i in range(9)])
    assert [y for _, y in points] == pytest.approx([0.6] * 9)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"m{i}" for i in range(9)]
