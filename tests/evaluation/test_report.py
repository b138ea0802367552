"""The report: what it says, that no text can break out of it, and how it behaves in a real browser."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from lc_jax.evaluation import report, summary
from lc_jax.evaluation.report import Entry
from tests.evaluation.forecasters import forecaster

NASTY = "</script><script>alert(1)</script> <b>&amp; {x} <!--body-->\u2028 \u05e9\u05dc\u05d5\u05dd"


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
    found = summary.summarize([r["confidence"] for r in good], [r["correct"] for r in good])
    row = {"method": method, "seed": seed, "judge": judge, "data": data, "statuses": {"ok": count - 1, "failed": 1}}
    row |= {"cost": {"dollars": 1.5, "calls": 9}, "settings": {"temperature": 0.3, "writer": "<i>"}}
    row["settings"] |= {"limit": 0, "prompt_dir": "", "questions": {"source": "mine.jsonl", "columns": None}}
    return Entry(json.loads(json.dumps(row | dataclasses.asdict(found))), json.loads(json.dumps(records)))


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
    return report.page(entries, num_examples=120)


def embedded(page):
    """The examples in a page, read as a browser would."""
    text = re.search(r'<script id="records" type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)


def test_everything_is_in_one_file(page):
    outside = re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|@import|url\(', page)
    assert not outside
    assert page.count("data:image/svg+xml;base64,") == 2 * 2 + 4  # two figures a data set, a reliability each
    assert "NaN" not in page.split("application/json")[1].split("</script>")[0]


def test_numbers_of_the_page_are_those_of_the_results(page, entries):
    for found in entries:
        for name in ("accuracy", "ece", "brier", "aurc"):
            assert f"{found.result[name]:.3f}" in page
        assert f"{found.result['ece_low']:.3f} to {found.result['ece_high']:.3f}" in page
    assert "0.647<small>0.639 to 0.656</small>" in page  # the paper's LC RL on TriviaQA
    assert "ok 119, failed 1" in page
    assert "openai/gpt-4.1" in page
    assert (
        "temperature: 0.3; writer: &lt;i&gt;; limit: 0; questions.source: mine.jsonl<" in page
    )  # what is empty is left out
    assert "one confidence for (nearly) everything" in page


def test_the_papers_rows_stand_apart_where_they_are_of_other_data(page):
    trivia, mine = page.split("<h2>mine</h2>")
    assert "<details>" not in trivia
    assert "LC RL<small>paper, TriviaQA</small></td><td></td><td>0.647" in trivia  # under the columns of ours
    assert "<details><summary>The paper's rows on TriviaQA, for orientation</summary>" in mine


def test_differences_are_paired_with_the_baseline(entries, page):
    found = report.differences(entries, "")
    assert set(found) == {("TriviaQA", "LC SFT"), ("TriviaQA", "Factuality RL")}
    change = found["TriviaQA", "LC SFT"]["ece"]
    assert change.difference == pytest.approx(entries[1].result["ece"] - entries[0].result["ece"])
    assert f"{change.difference:+.3f}<small>{change.low:+.3f} to {change.high:+.3f}</small>" in page
    assert set(report.differences(entries, "LC SFT")) == {("TriviaQA", "LC RL"), ("TriviaQA", "Factuality RL")}
    with pytest.raises(ValueError, match="baseline='nobody' was not evaluated; there are"):
        report.differences(entries, "nobody")


def test_texts_stay_texts(page):
    examples = embedded(page)
    assert [row["paragraph"] for row in examples if row["question"] == NASTY] == [NASTY] * 4
    assert "alert(1)</script>" not in page


def test_examples_hold_the_most_overconfident():
    records = [{"status": "ok", "correct": i % 2 == 0, "confidence": i / 100, "i": i} for i in range(100)]
    chosen = report.choose_examples(records, 10)
    assert len(chosen) == 10
    assert [row["i"] for row in chosen] == sorted(row["i"] for row in chosen)
    assert {91, 93, 95, 97, 99} <= {row["i"] for row in chosen}
    assert report.choose_examples(records[:7], 10) == records[:7]
    assert len(report.choose_examples(records[::2], 10)) == 10  # nothing wrong


def test_seeds_of_one_method_are_told_apart():
    twice = [entry("LC RL"), entry("LC RL", seed=1)]
    assert [report.label(found, twice) for found in twice] == ["LC RL, seed 0", "LC RL, seed 1"]


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.slow
def test_in_a_browser(browser, page, entries, tmp_path):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)  # a phone without a network
    tab, problems = context.new_page(), []
    tab.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: problems.append(dialog.message))
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.locator("details").count() == 1
    tab.click("summary")  # the paper's rows beside data of one's own
    assert tab.locator("details tr.paper").first.is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390  # nothing is wider than the phone
    assert tab.evaluate("[...document.images].every((image) => image.naturalWidth > 100)")

    examples = embedded(page)

    def shown():
        return int(tab.inner_text("#count").split()[0])

    assert shown() == len(examples) == 480
    assert tab.locator("article").count() == 25
    tab.click("#more")
    assert tab.locator("article").count() == 50

    mark = tab.locator("article", has_text="Which is peak 1?").first.locator("mark")
    assert mark.first.inner_text().startswith("mount everest")
    assert mark.first.get_attribute("class") == "chosen"
    assert mark.count() == 2
    assert mark.nth(1).get_attribute("title").startswith("forecast ")

    tab.select_option("#verdict", "overconfident")
    tab.fill("#threshold", "90")
    expected = [row for row in examples if row["status"] == "ok" and not row["correct"] and row["confidence"] >= 0.9]
    assert shown() == len(expected) > 5
    assert tab.locator("article:not(.wrong)").count() == 0
    tab.select_option("#data", "mine")
    assert shown() == len([row for row in expected if row["data"] == "mine"])
    tab.select_option("#verdict", "unjudged")
    assert "failed: the server was down" in tab.locator("article").first.inner_text()
    tab.select_option("#data", "")
    tab.select_option("#verdict", "all")
    tab.select_option("#method", "LC SFT")
    assert shown() == 120
    tab.fill("#words", "</SCRIPT>")
    assert shown() == 1
    assert tab.locator("article h4").inner_text().startswith("</script><script>alert(1)")
    assert problems == []
    context.close()
