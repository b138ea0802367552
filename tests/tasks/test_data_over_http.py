"""Whole data sets made over HTTP: of the miniature world, as in process to the bit, and of real questions."""

import gzip
import json

import pytest

from configs import base
from lc_jax.data.examples import make_examples
from lc_jax.data.questions import load_training_rows
from lc_jax.prompts import load_templates
from tests.llm.fake_server import KEY, FakeServer
from tests.tasks.test_generate_data import scripted
from tests.tasks.test_pipeline import rows, run

PROVIDERS = {"openai": "openai/gpt-4.1", "anthropic": "anthropic/claude-haiku-4-5"}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


def over(server, provider):
    """Settings of an annotator behind HTTP."""
    url = server.openai_url if provider == "openai" else server.anthropic_url
    return {"annotator__name": PROVIDERS[provider], "annotator__base_url": url}


def make_all(paragraphs, folder, **annotator):
    """Every set that an annotator makes; a list of the files."""
    steps = [("summaries", "icl_generated_paragraphs"), ("forecasts", "lc_sft_generated_paragraph")]
    steps.append(("correctness", "factuality_sft_generated_paragraph"))
    source = paragraphs
    for what, _ in steps:
        run("generate_data", what=what, input=str(source), output=str(folder / f"{what}.jsonl"), **annotator)
        source = folder / f"{what}.jsonl"
    return [folder / f"{what}.jsonl" for what, _ in steps]


@pytest.mark.slow
def test_the_miniature_data_are_the_same_over_http_and_train_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_OUTPUT", str(tmp_path))
    drafts = tmp_path / "paragraphs.jsonl"
    run(
        "generate_data",
        what="paragraphs",
        output=str(drafts),
        num_samples=4,
        limit=24,
        batch_size=96,
        max_new_tokens=48,
    )
    drawn = rows(drafts)
    for row in drawn:
        row["lc_sft_generated_paragraph"], row["factuality_sft_generated_paragraph"] = row["icl_generated_paragraphs"][
            :2
        ]
    drafts.write_text("".join(json.dumps(row) + "\n" for row in drawn))

    files = {"": make_all(drafts, tmp_path / "here")}
    with FakeServer() as server:
        for provider in PROVIDERS:
            files[provider] = make_all(drafts, tmp_path / provider, **over(server, provider))
        answered = server.num_answered
        for path in files["openai"]:
            path.unlink()
        make_all(drafts, tmp_path / "openai", **over(server, "openai"))
        assert server.num_answered == answered  # made anew from the store
    assert "%" in rows(files[""][0])[0]["claude_summary"]
    assert {row["factuality_sft_binary_correctness"] for row in rows(files[""][-1])} == {0, 1}
    for provider in PROVIDERS:
        assert [path.read_bytes() for path in files[provider]] == [path.read_bytes() for path in files[""]]

    fit = {"data__eval_size": 4, "fit__batch_size": 4, "fit__microbatch_size": 4, "fit__num_epochs": 1}
    models = []
    for provider in ("", "anthropic"):
        output = tmp_path / f"sft_{provider}"
        run("sft_lc", output=str(output), data__rows__source=str(files[provider][0]), **fit)
        models.append((output / "model" / "model.safetensors").read_bytes())
    assert models[0] == models[1]


@pytest.mark.slow
def test_real_questions_become_training_data(tmp_path, assets):
    raw, data = tmp_path / "questions.jsonl", tmp_path / "data"
    with gzip.open(assets / "triviaqa_dev.jsonl.gz", "rt") as file:
        raw.write_text("".join(line for line, _ in zip(file, range(200), strict=False)))
    llama = {"model": base.LLAMA, "max_new_tokens": 16, "batch_size": 200}

    def make(what, source, name, **settings):
        """The rows hold their questions themselves, as the source of none says."""
        own = {"questions__source": "", "questions__split": "", "input": str(source), "output": str(data / name)}
        run("generate_data", what=what, **own, **settings)
        return data / name

    with FakeServer(scripted) as server:
        http = over(server, "anthropic")
        path = make("queries", raw, "q.jsonl", **http)
        path = make("paragraphs", path, "p.jsonl", num_samples=2, **llama)
        path = make("summaries", path, "s.jsonl", **http)
        path = make("paragraphs", path, "z.jsonl", num_samples=1, column="lc_sft_generated_paragraph", **llama)
        path = make("forecasts", path, "f.jsonl", **http)
    made = load_training_rows(path)
    assert [row["question_id"] for row in made] == [row["question_id"] for row in rows(raw)]
    templates = load_templates("full")
    for recipe, least in (("sft_lc", 200), ("forecast_probs", 390), ("extract_answers", 200)):
        found, dropped = make_examples(recipe, made, templates)
        assert not +dropped
        assert len(found) >= least
    manifest = json.loads((data / "f.jsonl.manifest.json").read_text())
    assert manifest["statuses"]["extract"] == {"ok": 200}
