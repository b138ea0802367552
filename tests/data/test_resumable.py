"""Resumable datasets: completed rows survive, another specification is refused, and the manifest adds up."""

import json

import pytest

from lc_jax.data.jsonl import read_jsonl
from lc_jax.data.resumable import ResumableDataset

ROWS = [{"question": "Where?"}, {"question": "Who?"}]


def manifest_of(path):
    return json.loads(path.with_name(f"{path.name}.manifest.json").read_text())


def test_rows_are_completed_in_any_order_by_several_runs(tmp_path):
    path = tmp_path / "data.jsonl"
    first = ResumableDataset(path, {"what": "x"})
    first.add(1, {"answer": "Ada"}, {"ask": {"ok": 2}}, [])
    first.record_cost(0.25, calls=2)
    with path.with_name("data.jsonl.part").open("a") as file:
        file.write('{"row": 0, "colu')  # the writer was killed here

    second = ResumableDataset(path, {"what": "x"})
    assert list(second.completed) == [1]
    second.add(0, {"answer": None}, {"ask": {"ok": 1, "invalid": 1}}, [{"step": "ask", "status": "invalid"}])
    second.record_cost(0.5, calls=2)
    assert second.count_statuses() == {"ask": {"ok": 3, "invalid": 1}}
    assert not path.exists()
    table = second.finish(ROWS)
    assert table == read_jsonl(path) == [{"question": "Where?", "answer": None}, {"question": "Who?", "answer": "Ada"}]
    problems = read_jsonl(tmp_path / "data.jsonl.problems.jsonl")
    assert problems == [{"row": 0, "step": "ask", "status": "invalid"}]
    manifest = manifest_of(path)
    assert manifest["cost"] == {"dollars": 0.75, "calls": 2}
    assert (manifest["num_rows"], manifest["num_problems"]) == (2, 1)
    assert not path.with_name("data.jsonl.part").exists()


def test_another_specification_is_refused(tmp_path):
    path = tmp_path / "data.jsonl"
    ResumableDataset(path, {"what": "x"})
    with pytest.raises(ValueError, match=r"data.jsonl.part was begun otherwise: what was 'x', is 'y'\. Remove it"):
        ResumableDataset(path, {"what": "y"})
    assert manifest_of(path)["spec"] == {"what": "x"}
