"""Every data set, made from a file of questions by annotators over HTTP: the real SDKs talk to a local server."""

import importlib
import json

import jax
import pytest

from lc_jax import parallel
from lc_jax.llm import AnnotatorError, batch
from lc_jax.prompts import correctness, extract, forecast, paragraph, query, retry, summarize
from lc_jax.tasks import generate_data
from lc_jax.types import Reply
from tests.llm.fake_server import KEY, FakeServer, Fault
from tests.test_configs import config_of

QUESTIONS = [
    {"question_id": f"q{i}", "question": f"Who wrote book {i}?", "answers": [f"Author {i}", f"A. {i}"]}
    for i in range(12)
]


def scripted(request):
    """A model with an answer to every prompt."""
    again = retry.PROMPT.match(request.prompt)
    text = again["request"] if again else request.prompt
    if fields := query.CLUE.match(text):
        return Reply("ok", f"In {fields['category'].lower()}, {fields['question']}?")
    if fields := query.PROMPT.match(text):
        return Reply("ok", f"Write a paragraph about this: {fields['question']}")
    if fields := extract.PROMPT.match(text):
        return Reply("ok", json.dumps({"answers": fields["generated_paragraph"].split(" or ")}))
    if fields := forecast.PROMPT.match(text):
        return Reply("ok", "1" if fields["answer"] in fields["generated_paragraph"] else "0")
    if fields := correctness.PROMPT.match(text):
        return Reply("ok", str(int(fields["answer"] in fields["generated_paragraph"])))
    if fields := summarize.PROMPT.match(text):
        return Reply("ok", " / ".join(summarize.split_paragraphs(fields["paragraphs"])))
    fields = paragraph.PROMPT.match(text)
    return Reply("ok", f"About {fields['paragraph_generation_prompt']}")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))

    def go(what, server=None, output="out.jsonl", **overrides):
        config = config_of("generate_data")
        config.what, config.output = what, str(tmp_path / output)
        config.questions.source, config.questions.answers = "", ""
        config.input = str(tmp_path / "questions.jsonl")
        config.annotator.name = "openai/gpt-4.1"
        if server:
            config.annotator.base_url = server.openai_url
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
        mesh = parallel.make_mesh(**config.mesh)
        with jax.set_mesh(mesh):
            importlib.import_module("lc_jax.tasks.generate_data").run(config, mesh)

    return go


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_queries_stand_beside_their_questions(run, tmp_path):
    with FakeServer(scripted) as server:
        run("queries", server)
        assert server.num_answered == 12
    rows = read(tmp_path / "out.jsonl")
    assert [row["question_id"] for row in rows] == [row["question_id"] for row in QUESTIONS]
    assert rows[3]["paragraph_generation_prompt"] == "Write a paragraph about this: Who wrote book 3?"
    assert (rows[3]["ground_truth_top_answer"], rows[3]["aliases"]) == ("Author 3", ["A. 3"])
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["statuses"] == {"query": {"ok": 12}}
    assert manifest["spec"]["annotator"] == "openai/gpt-4.1"
    assert manifest["cost"]["calls"] == 12
    assert manifest["cost"]["dollars"] > 0
    assert {"code", "started", "finished"} <= set(manifest)
    assert not (tmp_path / "out.jsonl.part").exists()


def test_clues_are_questions_first(run, tmp_path):
    clues = [{"category": "BOOKS", "question": f"He wrote {i}", "answers": [f"Author {i}"]} for i in range(3)]
    write(tmp_path / "clues.jsonl", [*clues, {"category": "X", "question": "No answer"}])
    with FakeServer(scripted) as server:
        run("queries", server, input=str(tmp_path / "clues.jsonl"), clues=True)
        assert server.num_answered == 6
    rows = read(tmp_path / "out.jsonl")
    assert [row["question_id"] for row in rows] == ["0", "1", "2"]
    assert rows[1]["rephrased_question"] == "In books, He wrote 1?"
    assert rows[1]["paragraph_generation_prompt"] == "Write a paragraph about this: In books, He wrote 1?"


def test_what_gives_the_answer_away_has_no_value_and_is_listed(run, tmp_path):
    def blabbing(request):
        return Reply("ok", "Write a paragraph about Author 5.") if "book 5?" in request.prompt else scripted(request)

    with FakeServer(blabbing) as server:
        run("queries", server)
        assert server.num_answered == 11 + 3  # asked again twice, with the reason
    rows = read(tmp_path / "out.jsonl")
    assert [row["question_id"] for row in rows if row["paragraph_generation_prompt"] is None] == ["q5"]
    (problem,) = read(tmp_path / "out.jsonl.problems.jsonl")
    assert (problem["row"], problem["question_id"], problem["step"], problem["status"]) == (5, "q5", "query", "invalid")
    assert "gives the answer away" in problem["detail"]
    assert problem["reply"] == "Write a paragraph about Author 5."


def test_readers_data(run, tmp_path):
    rows = [{**row, "paragraph_generation_prompt": "Write."} for row in QUESTIONS]
    for i, row in enumerate(rows):
        row["lc_sft_generated_paragraph"] = f"Author {i} or Somebody else" if i % 2 else "Nobody"
        row["factuality_sft_generated_paragraph"] = f"Author {i}" if i % 3 else "No one"
    rows[4]["lc_sft_generated_paragraph"] = None
    write(tmp_path / "in.jsonl", rows)
    with FakeServer(scripted) as server:
        run("forecasts", server, input=str(tmp_path / "in.jsonl"))
        run("correctness", server, input=str(tmp_path / "out.jsonl"), output="both.jsonl")
    data_rows = read(tmp_path / "both.jsonl")
    assert data_rows[3]["lc_sft_ground_truth_and_extracted_answers"] == ["Author 3", "Author 3", "Somebody else"]
    assert data_rows[3]["lc_sft_forecasted_probs"] == [1.0, 1.0, 1.0]
    assert data_rows[2]["lc_sft_ground_truth_and_extracted_answers"] == ["Author 2", "Nobody"]
    assert data_rows[2]["lc_sft_forecasted_probs"] == [0.0, 1.0]
    assert data_rows[4]["lc_sft_forecasted_probs"] is None
    assert [row["factuality_sft_binary_correctness"] for row in data_rows] == [int(i % 3 > 0) for i in range(12)]
    statuses = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["statuses"]
    assert statuses == {"extract": {"ok": 11}, "forecast": {"ok": 28}, "input": {"missing": 1}}


def test_paragraphs_by_the_annotator_and_summaries_of_listed_text(run, tmp_path):
    rows = [{**row, "paragraph_generation_prompt": f"Write {row['question_id']}."} for row in QUESTIONS]
    for row in rows:
        row["icl_generated_paragraphs"] = "['one', \"it's two\"]"  # as published: the text of a list
    write(tmp_path / "in.jsonl", rows)
    with FakeServer(scripted) as server:
        run("claude_distill", server, input=str(tmp_path / "in.jsonl"))
        run("summaries", server, input=str(tmp_path / "out.jsonl"), output="both.jsonl")
    data_rows = read(tmp_path / "both.jsonl")
    assert data_rows[7]["claude_generated_paragraph"] == "About Write q7."
    assert data_rows[7]["claude_summary"] == "one / it's two"


def test_failed_requests_stop_the_run_and_the_next_asks_only_for_them(run, tmp_path):
    down = {"on": True}

    def fault(number, prompt):
        return (
            Fault("status", status=400, error="injected")
            if down["on"] and "book 7?" in prompt.rpartition("---")[2]
            else None
        )

    with FakeServer(scripted, fault=fault) as server:
        with pytest.raises(ValueError, match=r"1 requests failed, most often: .*injected.*accept_failed=true"):
            run("queries", server)
        assert not (tmp_path / "out.jsonl").exists()
        assert len(read(tmp_path / "out.jsonl.part")) == 11
        with pytest.raises(ValueError, match=r"out.jsonl.part was begun otherwise: num_rows was 12"):
            run("queries", server, limit=3)
        num_replies = server.num_answered
        down["on"] = False
        run("queries", server)
        assert server.num_answered == num_replies + 1
    assert [row["question_id"] for row in read(tmp_path / "out.jsonl")] == [f"q{i}" for i in range(12)]
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["statuses"] == {"query": {"ok": 12}}


def test_failed_requests_may_be_accepted(run, tmp_path):
    fault = Fault("status", status=400, error="injected")
    with FakeServer(scripted, fault=lambda number, prompt: fault if number == 0 else None) as server:
        run("queries", server, accept_failed=True)
    assert [row["paragraph_generation_prompt"] is None for row in read(tmp_path / "out.jsonl")].count(True) == 1


def test_a_dry_run_prices_every_step_and_sends_nothing(run, tmp_path, capsys):
    rows = [{**row, "lc_sft_generated_paragraph": "A long story."} for row in QUESTIONS]
    write(tmp_path / "in.jsonl", rows)
    with FakeServer(scripted) as server:
        run("forecasts", server, input=str(tmp_path / "in.jsonl"), dry_run=True)
        assert server.num_requests == 0
        assert not server.calls
    table = capsys.readouterr().out
    lines = [line.split() for line in table.splitlines()]
    assert ["extract", "openai/gpt-4.1", "12", "0"] in [line[:4] for line in lines]
    assert ["forecast", "openai/gpt-4.1", "36", "0"] in [line[:4] for line in lines]
    assert "$" in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "questions.jsonl"]


def test_a_budget_stops_the_run_resumably(run, tmp_path):
    with FakeServer(scripted) as server:
        with pytest.raises(AnnotatorError, match="budget"):
            run("queries", server, budget=0.005, annotator__concurrency=1)
        num_replies = server.num_answered
        assert 0 < num_replies < 12
        run("queries", server)
        assert server.num_answered == 12
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["cost"]["calls"] == 12 - num_replies
    assert len(read(tmp_path / "out.jsonl")) == 12


def test_batch_jobs_make_the_same_rows(run, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "POLL", 0.01)
    rows = [{**row, "lc_sft_generated_paragraph": f"Author {i} or Nobody"} for i, row in enumerate(QUESTIONS)]
    write(tmp_path / "in.jsonl", rows)
    settings = {"input": str(tmp_path / "in.jsonl"), "annotator__batch": True}
    with FakeServer(scripted) as server:
        run("forecasts", server, dry_run=True, **settings)
        run("forecasts", server, **settings)
        assert server.num_requests == 0
        assert server.calls.count("POST /v1/batches") == 2  # a job a task
        run("forecasts", server, output="single.jsonl", input=settings["input"], store=str(tmp_path / "other.sqlite"))
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "single.jsonl").read_text()
    costs = [
        json.loads((tmp_path / f"{n}.jsonl.manifest.json").read_text())["cost"]["dollars"] for n in ("out", "single")
    ]
    assert costs[0] == pytest.approx(costs[1] / 2)


def test_an_annotator_is_needed(run):
    with pytest.raises(ValueError, match=r"give --config.annotator.name=provider/model"):
        run("queries", annotator__name="")
    with pytest.raises(ValueError, match="give one of"):
        run("poems")


def test_the_key_is_in_no_file(run, tmp_path):
    with FakeServer(
        scripted, fault=lambda n, p: Fault("status", status=400, error=f"bad {KEY}") if n == 3 else None
    ) as server:
        run("queries", server, accept_failed=True)
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), path


def test_a_killed_run_goes_on_where_it_stopped(run, tmp_path):
    """A killed process leaves some rows and a truncated last line; replies come from the store."""
    with FakeServer(scripted) as server:
        run("queries", server)
        whole, complete_rows = (tmp_path / "out.jsonl").read_text(), read(tmp_path / "out.jsonl")
        lines = [
            json.dumps({"row": n, "columns": {"paragraph_generation_prompt": "kept"}, "notes": {}, "problems": []})
            for n in (7, 2)
        ]
        (tmp_path / "out.jsonl").unlink()
        (tmp_path / "out.jsonl.part").write_text("\n".join([*lines, lines[0][:30]]))
        run("queries", server)
        assert server.num_answered == 12
    rows = read(tmp_path / "out.jsonl")
    assert [row["question_id"] for row in rows if row["paragraph_generation_prompt"] == "kept"] == ["q2", "q7"]
    complete_rows[2]["paragraph_generation_prompt"] = complete_rows[7]["paragraph_generation_prompt"] = "kept"
    assert rows == complete_rows
    assert whole.count("\n") == 12


def test_published_wordings_take_the_place_of_ours(run, tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "generate_open_ended_query_claude_10shot.txt").write_text("\n\nHuman: Ask {question}\n\nAssistant: Q:")

    def answer(request):
        assert request.prompt.startswith("Ask Who wrote book ")
        return Reply("ok", "Write a paragraph about it.")

    with FakeServer(answer) as server:
        run("queries", server, prompt_dir=str(folder))
        assert "response_format" not in server.exchanges[0].body
        (tmp_path / "out.jsonl").unlink()
        (tmp_path / "out.jsonl.part").touch()
        with pytest.raises(ValueError, match=r"was begun otherwise: prompts\.query was"):
            run("queries", server)


def test_rows_that_share_an_id_keep_their_own_columns(run, tmp_path):
    shared = [{"id": 7, "question": f"Who wrote book {i}?", "answer": f"Author {i}"} for i in range(3)]
    write(tmp_path / "questions.jsonl", shared)
    with FakeServer(scripted) as server:
        run("queries", server)
        path = str(tmp_path / "out.jsonl")
        drafts = [{"id": 7.0, "lc_sft_generated_paragraph": f"Author {i}"} for i in range(3)]
        write(tmp_path / "drafts.jsonl", drafts)
        settings = {"input": str(tmp_path / "drafts.jsonl"), "questions__source": path}
        run("forecasts", server, output="forecasts.jsonl", **settings)
        write(tmp_path / "drafts.jsonl", drafts[:2])
        with pytest.raises(ValueError, match=r"The id '7' is of 2 rows of .* and of 3 questions of"):
            run("forecasts", server, output="others.jsonl", **settings)
    rows = read(tmp_path / "out.jsonl")
    assert [row["question"] for row in rows] == [row["question"] for row in shared]
    assert all(f"book {i}?" in row["paragraph_generation_prompt"] for i, row in enumerate(rows))
    lines = read(tmp_path / "forecasts.jsonl")
    assert [row["lc_sft_ground_truth_and_extracted_answers"] for row in lines] == [
        [f"Author {i}"] * 2 for i in range(3)
    ]
    assert [row["lc_sft_forecasted_probs"] for row in lines] == [[1, 1]] * 3


@pytest.mark.parametrize(
    ("in_context", "texts", "statuses"),
    [
        (True, ["one", "two"], {"ok": 2}),
        (False, ["one\n\n- a list", "two\n\nRequest: Write"], {"ok": 1, "truncated": 1}),
    ],
)
def test_paragraphs_are_cut_only_where_a_base_model_goes_on(run, tmp_path, monkeypatch, in_context, texts, statuses):
    """A fine-tuned model's paragraph is whole only where it came to its end."""
    write(tmp_path / "in.jsonl", [{**row, "paragraph_generation_prompt": "Write."} for row in QUESTIONS[:2]])
    decodings = []

    def decode(folder, mesh, prompts, decoding, precision, row_ids):
        decodings.append(decoding)
        return iter([(0, "\none\n\n- a list", True, -1.0), (1, "two\n\nRequest: Write", False, -1.0)])

    monkeypatch.setattr(generate_data.writing, "write", decode)
    settings = {"input": str(tmp_path / "in.jsonl"), "in_context": in_context, "column": "paragraph", "num_samples": 1}
    run("paragraphs", model="m", published=True, **settings)
    assert [row["paragraph"] for row in read(tmp_path / "out.jsonl")] == texts
    assert [(d.temperature, d.top_p, d.max_new_tokens) for d in decodings] == [(0.7, 0.9, 512)]
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["statuses"] == {"sample": statuses}
    spec = manifest["spec"]
    assert (spec["top_p"], spec["max_new_tokens"], spec["first_paragraph"]) == (0.9, 512, in_context)
