"""Whole data sets made over HTTP: of the miniature world, as in process to the bit, and of real questions."""

import gzip
import itertools
import json

import numpy as np
import pytest

from configs import base
from lc_jax.data.examples import RECIPES, make_examples
from lc_jax.data.questions import load_training_rows
from lc_jax.miniature import corpus, world
from lc_jax.prompts import load_templates
from lc_jax.prompts.parsing import first_paragraph
from tests.llm.fake_server import KEY, FakeServer
from tests.tasks.test_generate_data import scripted
from tests.tasks.test_pipeline import rows, run

PROVIDERS = {"openai": "openai/gpt-4.1", "anthropic": "anthropic/claude-haiku-4-5"}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


def over(server, provider):
    """Settings of an annotator over HTTP."""
    url = server.openai_url if provider == "openai" else server.anthropic_url
    return {"annotator__name": PROVIDERS[provider], "annotator__base_url": url}


def drafts(folder):
    """Writes drafts about every question of the miniature's two sets, sampled from its writers."""
    questions, rng = world.build(), np.random.default_rng(0)

    def one(write, fact):
        return first_paragraph(write(*fact, rng))

    columns = {
        "sft": {"icl_generated_paragraphs": lambda *fact: [one(corpus.paragraphs, fact) for _ in range(8)]},
        "reward_model": {
            "lc_sft_generated_paragraph": lambda *fact: one(corpus.survey, fact),
            "factuality_sft_generated_paragraph": lambda *fact: one(corpus.paragraphs, fact),
        },
    }
    for split, writers in columns.items():
        pairs = [(subject, fact) for subject in questions.split(split) for fact in subject.facts]
        data_rows = []
        for subject, fact in pairs:
            question = subject.question(fact)
            row = {"question_id": question.question_id, "paragraph_generation_prompt": question.prompt}
            data_rows.append(row | {name: write(subject, fact) for name, write in writers.items()})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data_rows))


def make_all(source, folder, **annotator):
    """Every set that an annotator makes; a list of the files."""
    data_rows = []
    for what, split, before in (
        ("summaries", "sft", source / "sft.jsonl"),
        ("forecasts", "reward_model", source / "reward_model.jsonl"),
        ("correctness", "reward_model", folder / "forecasts.jsonl"),
    ):
        data_rows.append(folder / f"{what}.jsonl")
        files = {"input": str(before), "output": str(data_rows[-1])}
        run("generate_data", what=what, questions__split=split, **files, **annotator)
    return data_rows


@pytest.mark.slow
def test_the_whole_miniature_is_the_same_over_http_and_trains_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_OUTPUT", str(tmp_path))
    drafts(tmp_path)
    files = {"": make_all(tmp_path, tmp_path / "here")}
    with FakeServer() as server:
        for provider in PROVIDERS:
            files[provider] = make_all(tmp_path, tmp_path / provider, **over(server, provider))
        num_replies = server.num_answered
        for path in files["openai"]:
            path.unlink()
        make_all(tmp_path, tmp_path / "openai", **over(server, "openai"))
        assert server.num_answered == num_replies  # made again from the store
    summaries, _, read = map(rows, files[""])
    assert len(summaries) == len(world.build().questions("sft"))
    assert len(read) == len(world.build().questions("reward_model"))
    assert all("%" in row["claude_summary"] for row in summaries)
    assert all(row["lc_sft_forecasted_probs"] for row in read)
    assert {row["factuality_sft_binary_correctness"] for row in read} == {0, 1}
    for provider in PROVIDERS:
        assert [path.read_bytes() for path in files[provider]] == [path.read_bytes() for path in files[""]]

    fit = {"data__eval_size": 8, "fit__batch_size": 64, "fit__microbatch_size": 64, "fit__num_epochs": 1}
    models = []
    for provider in ("", "anthropic"):
        output = tmp_path / f"sft_{provider}"
        run("sft_lc", output=str(output), data__rows__source=str(files[provider][0]), **fit)
        models.append((output / "model" / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def copy_of(source, target, count):
    """The first `count` lines of a packed file."""
    with gzip.open(source, "rt") as file:
        target.write_text("".join(itertools.islice(file, count)))
    return target


@pytest.mark.slow
def test_real_questions_become_training_data(tmp_path, assets):
    """All six sets, of 200 questions of TriviaQA and 200 clues of Jeopardy!."""
    raw = copy_of(assets / "triviaqa_dev.jsonl.gz", tmp_path / "questions.jsonl", 200)
    clues = copy_of(assets / "jeopardy.jsonl.gz", tmp_path / "clues.jsonl", 200)
    data = tmp_path / "data"
    llama = {"model": base.LLAMA, "max_new_tokens": 16, "batch_size": 200}

    def make(what, source, name, **settings):
        """The rows hold their questions themselves, as the source of none says."""
        own = {"questions__source": "", "questions__split": "", "input": str(source), "output": str(data / name)}
        run("generate_data", what=what, **own, **settings)
        return data / name

    with FakeServer(scripted) as server:
        http = over(server, "anthropic")
        clues = make("queries", clues, "c.jsonl", clues=True, **http)
        path = make("queries", raw, "q.jsonl", **http)
        path = make("paragraphs", path, "p.jsonl", num_samples=2, **llama)
        path = make("summaries", path, "s.jsonl", **http)
        path = make("claude_distill", path, "d.jsonl", **http)
        for column in ("lc_sft_generated_paragraph", "factuality_sft_generated_paragraph"):
            path = make("paragraphs", path, f"{column}.jsonl", num_samples=1, column=column, **llama)
        path = make("forecasts", path, "f.jsonl", **http)
        path = make("correctness", path, "all.jsonl", **http)
    data_rows = load_training_rows(path)
    assert [row["question_id"] for row in data_rows] == [row["question_id"] for row in rows(raw)]
    templates = load_templates("full")
    for recipe in RECIPES.keys() - {
        "demonstrations",
        "labelled_answers",
        "stated_confidence",
    }:  # those of the published columns
        made_examples, dropped = make_examples(recipe, data_rows, templates)
        assert not +dropped, recipe
        assert len(made_examples) >= (390 if recipe == "forecast_probs" else 200), recipe
    statuses = {path.name: json.loads(path.read_text())["statuses"] for path in data.glob("*.manifest.json")}
    assert statuses["f.jsonl.manifest.json"]["extract"] == {"ok": 200}
    assert statuses["c.jsonl.manifest.json"] == {"clue": {"ok": 200}, "query": {"ok": 200}}
    assert all(row["rephrased_question"] and row["paragraph_generation_prompt"] for row in rows(clues))
