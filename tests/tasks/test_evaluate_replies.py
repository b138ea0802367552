"""Evaluations by models whose replies reason first, through HTTP and the real parsers."""

import json
from pathlib import Path

import pytest

from lc_jax.prompts import equivalence, extract, forecast
from tests.llm.raw_server import RawServer, http

CASES = Path(__file__).resolve().parents[1] / "cases" / "23"
STEPS = {"extract": extract.PROMPT, "forecast": forecast.PROMPT, "equivalence": equivalence.PROMPT}


@pytest.mark.parametrize("name", ["think-block", "content-parts"])
@pytest.mark.parametrize("paragraph", ["It is the Danube (80%).", "<think> It is the Danube (80%).", "</think>"])
def test_an_evaluation_by_a_reasoning_model(name, paragraph, evaluate, tmp_path):
    """Tags in a paragraph change nothing: it is data."""
    recorded = json.loads((CASES / f"{name}.json").read_text())
    prompts = []

    def answer(head, body):
        if head.startswith("GET"):
            return http(b"{}", "404 Not Found")
        prompt = json.loads(body)["messages"][0]["content"]
        step = next((step for step in STEPS if STEPS[step].match(prompt)), "probe")
        prompts.append((step, prompt))
        return http(json.dumps(recorded[step]).encode())

    row = json.loads((CASES / "rows.jsonl").read_text()) | {"generated_paragraph": paragraph, "answer": "Donau"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with RawServer(answer) as server:
        result, records = evaluate(
            None,
            paragraphs=str(tmp_path / "rows.jsonl"),
            annotator__base_url=server.url,
            annotator__name="openai/magistral",
        )
    assert (result["statuses"], result["accuracy"]) == ({"ok": 1}, 1.0)
    assert (records[0]["chosen"], records[0]["confidence"], records[0]["correct"]) == ("Danube", 0.8, True)
    assert [step for step, _ in prompts] == ["probe", "extract", "forecast", "equivalence"]
    assert extract.PROMPT.match(prompts[1][1])["generated_paragraph"] == paragraph
