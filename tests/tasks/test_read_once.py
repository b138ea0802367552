"""A run reads each of its files once, though its check and its work both need them; and says each warning once."""

import json
import logging
from collections import Counter

import pytest

from configs import base
from lc_jax import main
from lc_jax.data import files, memo
from lc_jax.models import hf
from lc_jax.tasks import evaluate_qa
from tests.test_configs import ROOT

QUESTIONS = [
    {"question": f"Which is peak {i}?", "answer": f"Peak {i}", "generated_paragraph": f"Peak {i} is it."}
    for i in range(20)
]
DEMONSTRATIONS = [{"prompt": f"Which city {i}? ", "completion": f"Paris {i}."} for i in range(12)]
LABELLED = [{"prompt": f"Is it {i}? ", "answer": "Yes", "label": 0.75} for i in range(12)]
POLICY = [f"--config.{name}={base.LLAMA}" for name in ("policy", "reader.forecaster", "reader.extractor")]
RUNS = {
    "sft": (DEMONSTRATIONS, "data.rows.source", []),
    "reward_model": (LABELLED, "data.rows.source", []),
    "ppo": (
        QUESTIONS,
        "questions.source",
        [*POLICY, "--config.ppo.query_length=64", "--config.ppo.rollout_batch_size=64"],
    ),
    "evaluate_qa": (QUESTIONS, "paragraphs", ["--config.method=mine", "--config.questions.source="]),
    "generate": (DEMONSTRATIONS, "prompts", [f"--config.model={base.LLAMA}"]),
    "score": (DEMONSTRATIONS, "input", [f"--config.model={base.LLAMA}"]),
}


class Loaded(Exception):
    """Ends a run where it would load its model or open its annotator: by then its files are read."""


@pytest.fixture
def reads(monkeypatch):
    """Counts how often each file is read."""
    counts, stream_file = Counter(), files.stream_file

    def counting(path):
        counts[path.name] += 1
        return stream_file(path)

    def load(*args, **kwargs):
        raise Loaded

    monkeypatch.setattr(files, "stream_file", counting)
    monkeypatch.setattr(hf, "load", load)
    monkeypatch.setattr(evaluate_qa, "open_configured", load)
    monkeypatch.chdir(ROOT)
    return counts


def start(name, source, output, *more):
    rows, setting, flags = RUNS[name]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [*flags, f"--config.{setting}={source}", f"--config.output={output}", "--config.compilation_cache=", *more]
    try:
        main.run_task(["main", f"--config=configs/{name}.py:mini", *flags])
    except Loaded:
        return


@pytest.mark.parametrize("name", RUNS)
def test_a_run_reads_its_file_once(name, tmp_path, reads):
    start(name, tmp_path / "mine.jsonl", tmp_path / "out")
    assert reads == {"mine.jsonl": 1}
    assert memo._results is None  # nothing is left for the next run of this process


@pytest.mark.parametrize("name", ["ppo", "evaluate_qa"])
def test_a_run_says_once_that_it_leaves_rows_out_and_that_ids_are_double(name, tmp_path, reads, caplog, monkeypatch):
    rows = [{**row, "question_id": f"q{i // 2}"} for i, row in enumerate(QUESTIONS)] + [{"question": "Which?"}]
    monkeypatch.setitem(RUNS, name, (rows, *RUNS[name][1:]))
    with caplog.at_level(logging.WARNING):
        start(name, tmp_path / "mine.jsonl", tmp_path / "out")
    for words in ("dropped 1 of 21 rows", "10 ids are of several rows"):
        assert len([record for record in caplog.records if words in record.getMessage()]) == 1


def test_results_are_reused_within_the_context_only_and_errors_are_raised_again():
    calls = []

    @memo.memoise
    def double(number, *, fails=False):
        calls.append(number)
        if fails:
            raise ValueError("no")
        return [number, number]

    with memo.reuse():
        assert double(1) is double(1)
        assert double(2) == [2, 2]
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                double(3, fails=True)
    assert double(1) == [1, 1]
    assert calls == [1, 2, 3, 3, 1]
