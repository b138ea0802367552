"""The report: what it says, that no text can break out of it, and how it behaves in a real browser."""

import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest

from lc_jax.data import jsonl
from lc_jax.evaluation import examples, intervals, report, results, summary
from lc_jax.evaluation.results import MAIN, MORE, Entry
from tests.evaluation.forecasters import forecaster

NASTY = "</script><script>alert(1)</script> <b>&amp; {x} <!--body-->\u2028 \u05e9\u05dc\u05d5\u05dd"
SOURCES = {"TriviaQA": "tatsu-lab/linguistic_calibration:trivia_qa_paragraph_generation"}


def entry(method, lift=0.1, *, data="TriviaQA", seed=0, judge="openai/gpt-4.1", count=120, uses_confidence=True):
    """A simulated evaluation: half the paragraphs name two answers; one question failed."""
    confidence, correct = forecaster(count, lift=lift, seed=seed)
    if not uses_confidence:
        confidence = np.ones(count)
    records = []
    for i, (sure, right) in enumerate(zip(confidence.tolist(), correct.tolist(), strict=True)):
        answers = ["Mount Everest", "K2"][: 1 + i % 2]
        record = {"question_id": f"q{i}", "question": f"Which is peak {i}?", "status": "ok", "detail": ""}
        record |= {"paragraph": f"I am sure that it is mount everest, number {i}, or else K2.", "answers": answers}
        record |= {"probs": [sure, 1 - sure][: len(answers)] if uses_confidence else [], "chosen": "Mount Everest"}
        record |= {"answer": "Mount Everest" if right else "Lhotse", "confidence": sure, "correct": right}
        records.append(record)
    records[3] |= {"status": "failed", "confidence": float("nan"), "correct": False, "detail": "the server was down"}
    records[4] |= {"question": NASTY, "paragraph": NASTY}
    good = [record for record in records if record["status"] == "ok"]
    kinds = [f"kind {record['question_id'][-1]}" for record in good]
    fields = summary.summarize([r["confidence"] for r in good], [r["correct"] for r in good], kinds)
    row = {"method": method, "seed": seed, "judge": judge, "data": data, "statuses": {"ok": count - 1, "failed": 1}}
    row |= {"cost": {"dollars": 1.5, "calls": 9}, "settings": {"temperature": 0.3, "writer": "<i>"}}
    row["settings"] |= {"limit": 0, "prompt_dir": "", "questions": {"source": SOURCES.get(data, "mine.jsonl")}}
    row["settings"]["questions"]["columns"] = None
    result, rows = (json.loads(jsonl.dumps(value)) for value in (row | dataclasses.asdict(fields), records))
    return Entry(result, rows, folder=f"evaluations/{method}")


@pytest.fixture(scope="module")
def entries():
    return [
        entry("LC RL", 0.05),
        entry("LC SFT", 0.2, seed=1),
        entry("Factuality RL", 0.1, uses_confidence=False),
        entry("LC RL", 0.0, data="mine"),
    ]


@pytest.fixture(scope="module")
def page(entries):
    return report.page(entries, report.differences(entries, ""), num_examples=120)


def embedded(page):
    """The examples in a page, read as a browser would."""
    text = re.search(r'<script id="records" type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)


def test_everything_is_in_one_file(page):
    outside = re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|@import|url\(', page)
    assert not outside
    assert page.count("data:image/svg+xml;base64,") == 2 * 3 + 4  # three of a data set, one of each method
    assert "NaN" not in page.split("application/json")[1].split("</script>")[0]


def test_numbers_of_the_page_are_those_of_the_results(page, entries):
    for one in entries:
        for name in ("accuracy", "ece", "brier", "aurc"):
            assert f"{one.result[name]:.3f}" in page
        assert f"{one.result['ece_low']:.3f} to {one.result['ece_high']:.3f}" in page
    assert "0.647<small>0.639 to 0.656</small>" in page  # the paper's LC RL on TriviaQA
    assert "ok 119, failed 1" in page
    assert "openai/gpt-4.1" in page
    assert "temperature: 0.3; writer: &lt;i&gt;; limit: 0; questions.source: mine.jsonl<" in page  # no empty setting
    assert "one confidence for (nearly) everything" in page


def test_main_columns_come_first_and_every_header_is_explained(page):
    head, *_ = re.findall(r"<thead>(.*?)</thead>", page)
    assert re.findall(r"<th[^>]*>(.*?)</th>", head) == [
        *(
            "method",
            "accuracy",
            "ECE",
            "debiased ECE",
            "over (+) or under (−)",
            "Brier",
            "Brier of a constant",
            "AUROC",
        ),
        "n",
    ]
    for column in (*MAIN, *MORE):
        assert column.meaning in html.unescape(page)
    legend = re.search(r'<details class="legend"><summary>What the columns mean</summary><dl>(.*?)</dl>', page)[1]
    assert legend.count("<dt>") == len(MAIN)


def test_the_table_by_kind_is_in_the_page(page, entries):
    kind = entries[0].result["kinds"][1]
    low, high = intervals.wilson(round(kind["accuracy"] * 12), 12)
    assert (kind["kind"], kind["num_questions"]) == ("kind 1", 12)
    interval = f"n = 12; {low:.2f} to {high:.2f}; AUROC {kind['auroc']:.2f}"
    cell = f"{kind['confidence']:.2f} / {kind['accuracy']:.2f}<small>{interval}</small>"
    assert f'<th scope="row"><bdi>kind 1</bdi></th><td>{cell}</td>' in page


def test_the_papers_rows_are_shown_with_its_own_questions_only(page):
    trivia, mine = page.split("<h2><bdi>mine</bdi></h2>")
    assert "<span>LC RL<small>paper</small></span>" in trivia
    assert "paper" not in mine.partition("<script")[0].lower()
    own = [dataclasses.replace(entry("LC RL"), result=entry("LC RL", data="mine").result | {"data": "TriviaQA"})]
    assert 'class="paper"' not in report.page([entry("LC SFT"), *own], {})


def test_ratios_of_calibration_errors_stand_next_to_the_papers(page, entries):
    ours, sft, factuality = (one.result["ece"] for one in entries[:3])
    trivia, mine = page.split("<h2><bdi>mine</bdi></h2>")
    assert f"<li>ECE of LC RL / LC SFT: {ours / sft:.2f} (paper 0.65)</li>" in trivia
    assert f"<li>ECE of LC RL / Factuality RL: {ours / factuality:.2f} (paper 0.29)</li>" in trivia
    assert "LC RL / LC SFT" not in mine


def test_the_paper_s_other_data_sets_can_follow(entries):
    text = report.page(entries[:1], {}, published_sets=["SciQ", "biographies"])
    own, sciq, people = re.split(r"<h2><bdi>(?:SciQ|biographies)</bdi>, the paper's</h2>", text)
    assert "<h2><bdi>TriviaQA</bdi></h2>" in own
    assert "0.569<small>0.560 to 0.577</small>" in sciq  # LC RL: .5685
    assert "<li>ECE of LC RL / LC SFT: 0.68</li>" in sciq
    assert "0.760<small>" in people  # GPT-4 asked for uncertainty
    assert "<li>ECE of LC RL / Factuality RL: 0.44</li>" in people
    assert (sciq.count("<img"), people.count("<img")) == (1, 1)
    assert "The paper's own results." in report.page([], {}, published_sets=["SciQ"])


@pytest.mark.parametrize("count", [1, 3])
def test_undefined_numbers_are_dashes_with_their_reason(count):
    records = [
        {"question_id": str(i), "status": "ok", "confidence": 1.0, "correct": True, "paragraph": "x"}
        for i in range(count)
    ]
    fields = summary.summarize([1.0] * count, [True] * count)
    row = {"method": "m", "seed": 0, "judge": "j", "data": "d"} | dataclasses.asdict(fields)
    text = report.page([Entry(json.loads(jsonl.dumps(row)), records)], {})
    assert '<abbr title="all answers are right">–</abbr>' in text
    why = "a single question or biography cannot be resampled" if count == 1 else "every resample gives the same value"
    assert f'<small><abbr title="{why}">no interval</abbr></small>' in text
    assert "no AUROC: all answers are right</li>" in text
    assert f"1.000<small>{fields.accuracy_low:.3f} to 1.000</small>" in text
    assert " nan" not in text.lower().partition("<script")[0]


def test_differences_are_paired_with_the_baseline(entries, page):
    differences = report.differences(entries, "")
    assert set(differences) == {("TriviaQA", "LC SFT"), ("TriviaQA", "Factuality RL")}
    change = differences["TriviaQA", "LC SFT"]["ece"]
    assert change.difference == pytest.approx(entries[1].result["ece"] - entries[0].result["ece"])
    assert f"{change.difference:+.3f}<small>{change.low:+.3f} to {change.high:+.3f}</small>" in page
    assert set(report.differences(entries, "LC SFT")) == {("TriviaQA", "LC RL"), ("TriviaQA", "Factuality RL")}
    with pytest.raises(ValueError, match="baseline='nobody' was not evaluated; there are"):
        report.differences(entries, "nobody")


def test_texts_stay_texts(page):
    examples = embedded(page)
    assert [row["paragraph"] for row in examples if row["question"] == NASTY] == [NASTY] * 4
    assert "alert(1)</script>" not in page


def test_half_of_the_examples_are_the_most_overconfident_and_the_others_random():
    records = [{"status": "ok", "correct": i % 2 == 0, "confidence": i / 100, "i": i} for i in range(100)]
    chosen = examples.choose(records, 10)
    assert len(chosen) == 10
    places = [row["i"] for row, _ in chosen]
    assert places == sorted(set(places))
    assert {row["i"] for row, why in chosen if why == examples.OVERCONFIDENT} == {91, 93, 95, 97, 99}
    assert {why for _, why in chosen} == {examples.OVERCONFIDENT, examples.RANDOM}
    assert examples.choose(records, 10) == chosen
    assert examples.choose(records, 10, seed=1) != chosen
    assert examples.choose(records[:7], 10) == [(row, "") for row in records[:7]]
    right = examples.choose(records[::2], 10)
    assert [why for _, why in right] == [examples.RANDOM] * 10
    assert examples.choose(records, 0) == []


def test_the_page_says_how_examples_were_chosen(page, entries):
    assert "LC RL on mine: all 120." in page
    assert "So wrong answers are more frequent" not in page
    text = report.page(entries[:1], {}, num_examples=20, seed=7)
    assert "LC RL on TriviaQA: 20 of 120, of which 10 are the most confident wrong answers and 10 were drawn" in text
    assert "at random (seed 7).<br>So wrong answers are more frequent here than in the evaluations." in text
    assert sum(row["why"] == examples.OVERCONFIDENT for row in embedded(text)) == 10


def test_each_seed_has_its_own_difference():
    group = [entry("base"), entry("LC RL", 0.05), entry("LC RL", 0.2, seed=1)]
    changes = report.differences(group, "base")
    assert set(changes) == {("TriviaQA", "LC RL, seed 0"), ("TriviaQA", "LC RL, seed 1")}
    for seed, of_seed in enumerate(group[1:]):
        change = changes["TriviaQA", f"LC RL, seed {seed}"]["ece"].difference
        assert change == pytest.approx(of_seed.result["ece"] - group[0].result["ece"])


def test_a_seed_is_compared_with_the_baseline_of_the_same_seed():
    group = [entry("base"), entry("base", 0.3, seed=1), entry("LC RL", 0.05, seed=1), entry("LC RL", 0.05, seed=2)]
    changes = report.differences(group, "base")
    for number, base in ((2, 1), (3, 0)):  # of seed 2 the baseline has none: its first
        label = f"LC RL, seed {group[number].result['seed']}"
        expected = group[number].result["brier"] - group[base].result["brier"]
        assert changes["TriviaQA", label]["brier"].difference == pytest.approx(expected)


def test_seeds_of_one_method_are_told_apart():
    twice = [entry("LC RL"), entry("LC RL", seed=1)]
    assert [results.label(one, twice) for one in twice] == ["LC RL, seed 0", "LC RL, seed 1"]


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser_ = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser_
        browser_.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a page without a network at a width; at the end nothing may have been complained about."""
    opened = []

    def go(page, width):
        (tmp_path / "report.html").write_text(page, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
        tab, problems = context.new_page(), []
        opened.append((context, problems))
        tab.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: problems.append(dialog.message))
        tab.goto((tmp_path / "report.html").as_uri())
        return tab

    yield go
    for context, problems in opened:
        assert problems == []
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1200])
def test_nothing_is_wider_than_the_screen(visit, page, width):
    tab = visit(page, width)
    tab.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every((image) => image.naturalWidth > 100)")
    wide = "[...document.querySelectorAll('.stack')].filter((node) => node.scrollWidth > node.clientWidth).length"
    assert tab.evaluate(wide) == 0
    assert tab.locator("dl").first.is_visible()  # the legend
    assert tab.locator(".stack thead").first.is_visible() == (width > 640)  # a phone has a line for each number


@pytest.mark.slow
def test_filters_in_a_browser(visit, page):
    tab = visit(page, 390)
    examples = embedded(page)

    def count():
        return int(tab.inner_text("#count").split()[0])

    def expected(low, high, *verdicts):
        rows = [row for row in examples if row["status"] == "ok" and row["correct"] in verdicts]
        return len([row for row in rows if low <= row["confidence"] <= high])

    assert count() == len(examples) == 480
    assert tab.locator("article").count() == 25
    tab.click("#more")
    assert tab.locator("article").count() == 50

    mark = tab.locator("article", has_text="Which is peak 1?").first.locator("mark")
    assert mark.first.inner_text().startswith("mount everest")
    assert mark.first.get_attribute("class") == "chosen"
    assert mark.count() == 2
    assert mark.nth(1).get_attribute("title").startswith("forecast ")

    tab.fill("#from", "90")
    assert 50 < count() == expected(0.9, 1, True, False)  # under "all" too; what was not judged has no confidence
    tab.select_option("#verdict", "wrong")
    assert 5 < count() == expected(0.9, 1, False)
    assert tab.locator("article:not(.wrong)").count() == 0
    tab.fill("#from", "")
    tab.fill("#to", "50")
    tab.select_option("#verdict", "right")
    assert 5 < count() == expected(0, 0.5, True)
    tab.select_option("#verdict", "unjudged")
    assert "0 examples: what was not judged has no confidence" in tab.inner_text("#count")
    tab.fill("#to", "100")
    tab.select_option("#data", "mine")
    assert "failed: the server was down" in tab.locator("article").first.inner_text()
    tab.select_option("#data", "")
    tab.select_option("#verdict", "all")
    tab.select_option("#method", "LC SFT")
    assert count() == 120
    tab.fill("#words", "</SCRIPT>")
    assert count() == 1
    assert tab.locator("article h4").inner_text().startswith("</script><script>alert(1)")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paragraph", "answers", "marked"),
    [
        ("The answer is W; W. Bush, W", ["W"], ["W", "W", "W"]),
        ("answer", ["W", ""], []),
        ("Mount Everest", ["mount everest", "Everest"], ["Mount Everest"]),
        ("Der Gruß von Großmann an Groß, groß.", ["Groß"], ["Groß", "groß"]),
        ("Éa, \u0130stanbul and a, cafe\u0301 or cafe.", ["a", "cafe"], ["a", "cafe"]),
        ("in 1900, 21900 or 1,900 or 1900.5 (1900)", ["1900"], ["1900", "1900"]),
        ("C++ and C++, not (a+b)", ["C++", "(a+b)"], ["C++", "C++", "(a+b)"]),
        ("首都は東京です。", ["東京"], ["東京"]),
        ("\U0001f600K2\U0001f600 x\U0001d400K2", ["K2"], ["K2"]),  # a mathematical letter is a letter
        ("New\n York", ["New York"], ["New\n York"]),
        ("בירת צרפת היא פריז.", ["פריז"], ["פריז"]),
    ],
)
def test_answers_are_marked_where_they_are_whole_words(visit, paragraph, answers, marked):
    records = [{"question_id": "q", "status": "ok", "confidence": 0.5, "correct": True, "chosen": answers[0],
                "question": "?", "paragraph": paragraph, "answers": answers, "probs": []}]  # fmt: skip
    result = entry("m", data="d").result
    tab = visit(report.page([Entry(result, records)], {}), 1200)
    assert [mark.text_content() for mark in tab.locator("mark").all()] == marked
    assert tab.locator("article .paragraph").text_content() == paragraph


@pytest.mark.slow
def test_odd_texts_in_a_browser(visit):
    name = '"><img src=x onerror=alert(1)> \u05e9\u05dc\u05d5\u05dd \U0001f600 $x$ ' + "long" * 40
    texts = ["", " ", "word " * 20_000, "x" * 50_000, NASTY, "half \ud83d a pair", '"><script>alert(2)</script>']
    records = [
        {"question_id": name, "kind": name, "status": "ok", "confidence": 0.5, "correct": True, "chosen": text,
         "question": text, "answer": text, "paragraph": text, "answers": [text[:99]], "probs": [0.5]}
        for text in texts
    ]  # fmt: skip
    row = summary.summarize([0.5] * len(texts), [True] * len(texts), [name] * len(texts))
    result = {"method": name, "data": name, "judge": name, "seed": 0, **dataclasses.asdict(row)}
    result |= {"settings": {name: {name: name}}, "statuses": {name: 1}}
    page = report.page([Entry(result, records), Entry(result | {"method": "m"}, records)], {})
    page.encode("utf-8")
    tab = visit(page, 375)
    assert tab.locator("article").count() == 2 * len(texts)
    assert tab.locator("article", has_text="(empty paragraph)").count() == 4
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert tab.locator("img[src=x]").count() == 0


@pytest.mark.slow
def test_claims_of_biographies_in_a_browser(visit):
    def record(entity, number, status, confidence, correct, **fields):
        return {"question_id": f"{entity}/{number}", "entity": entity, "status": status, "confidence": confidence,
                "correct": correct, "paragraph": "She wrote notes.", "question": f"Claim {number}.", "probs": [],
                "answers": [], "chosen": f"Claim {number}.", **fields}  # fmt: skip

    records = [
        record("Ada", 1, "ok", 0.9, True, answer="supported"),
        record("Ada", 2, "ok", 0.4, False, answer="not supported"),
        record("Bob", 1, "ok", 0.8, True, answer="supported"),
        record("Nobody", 0, "unverifiable", None, False, detail="no page about Nobody"),
        record("Silent", 0, "no_claims", None, False, detail="the biography makes no claim"),
    ]
    row = summary.summarize([0.9, 0.4, 0.8], [True, False, True], clusters=["Ada", "Ada", "Bob"], num_bins=40)
    result = {"method": "m", "data": "d", "judge": "j", "seed": 0, "statuses": {"ok": 3, "unverifiable": 1}}
    result = json.loads(jsonl.dumps(result | dataclasses.asdict(row)))
    page = report.page([Entry(result, records)], {})
    assert "3<small>claims in 2 biographies</small>" in page
    tab = visit(page, 1200)
    cards = [card.inner_text() for card in tab.locator("article").all()]
    assert "Ada: Claim 2." in cards[1]
    assert "not supported: Claim 2., confidence 40%" in cards[1]
    assert "true answer" not in "".join(cards)
    assert "unverifiable: no page about Nobody" in cards[3]
    assert "no_claims: the biography makes no claim" in cards[4]
