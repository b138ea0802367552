"""Biographies from end to end: a store of real pages, an annotator over HTTP, and numbers counted a second time."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lc_jax.data import knowledge
from lc_jax.data.documents import SEPARATOR
from lc_jax.evaluation import report as report_page
from lc_jax.evaluation import results
from lc_jax.llm import AnnotatorError
from lc_jax.miniature import text, world
from lc_jax.prompts import claims, confidence, paragraph, retry, summarize, support
from lc_jax.tasks import build_knowledge, evaluate_biography
from lc_jax.types import Reply
from tests.data.test_documents import make_store
from tests.llm.fake_server import KEY, FakeServer, Fault
from tests.tasks.test_evaluate_qa import WITHOUT, write
from tests.tasks.test_pipeline import rows
from tests.test_configs import config_of

ROOT = Path(__file__).resolve().parents[2]
WORDS = 30  # of a passage here
CHANCE = re.compile(r" \((\d+)%\)")


def annotate(request):
    """Reads biographies that go "X: a phrase (60%) or another (40%)." one sentence a line; a praise is an opinion.

    A claim is supported if its phrase is in a passage of the prompt.
    """
    again = retry.PROMPT.match(request.prompt)
    prompt = again["request"] if again else request.prompt
    if fields := claims.PROMPT.match(prompt):
        groups = []
        for line in filter(None, fields["generated_paragraph"].split("\n")):
            name, _, statement = line.removesuffix(".").partition(": ")
            label = "Subjective" if statement == "a great person" else "Objective"
            groups.append([[f"{name}: {option}", label] for option in statement.split(" or ")])
        return Reply("ok", json.dumps(groups))
    if fields := confidence.PROMPT.match(prompt):
        texts = confidence.split_statements(fields["statements"])
        statements = [(CHANCE.sub("", t), int(c[1]) / 100 if (c := CHANCE.search(t)) else 1) for t in texts]
        return Reply("ok", json.dumps([{"claim": claim, "probability": prob} for claim, prob in statements]))
    if fields := support.PROMPT.match(prompt):
        return Reply("ok", "Supported" if supported(fields) else "Not supported")
    return Reply("ok", "Ada Lovelace: a great person.")


def supported(fields):
    passages = summarize.split_paragraphs(fields["passages"])
    return any(fields["claim"].partition(": ")[2] in passage for passage in passages)


def phrase(page, number):
    """Nine words of a page that lie within one passage."""
    words = page["text"].split()
    start = number * WORDS + 8
    return " ".join(words[start : start + 9])


def small_store(folder, titles=("Ada Lovelace", "Bela Bartok")):
    """Two pages, where there are no real ones."""
    pages = [{"title": t, "text": " ".join(f"{t[:3]}{i}" for i in range(90))} for t in titles]
    knowledge.build(write(folder / "pages.jsonl", pages), folder / "k.sqlite", passage_words=WORDS)
    return pages, folder / "k.sqlite"


def test_factscores_own_files_are_evaluated_as_they_are(evaluate_biographies, tmp_path):
    """Its store of pages and its generations (topic and output), without building or renaming anything."""
    page = {"title": "Lise Meitner", "text": " ".join(f"w{i}" for i in range(90))}
    passages = [" ".join(page["text"].split()[start : start + WORDS]) for start in (0, WORDS, 2 * WORDS)]
    text = SEPARATOR.join(f"<s>{passage}</s>" for passage in passages)
    path = make_store(tmp_path / "enwiki-20230401.db", [("Lise Meitner", text), ("Other", "<s>x</s>")])
    claims_text = f"Lise Meitner: {phrase(page, 1)} (60%).\nLise Meitner: sang (90%)."
    output_rows = [{"topic": "lise_meitner", "output": claims_text}, {"topic": "Nobody", "output": "Nobody: ran."}]
    with FakeServer(annotate) as server:
        result, records = evaluate_biographies(
            server, paragraphs=write(tmp_path / "GPT-4.jsonl", output_rows), column="output", knowledge=path
        )
    requests = [fields for item in server.exchanges if (fields := support.PROMPT.match(item.prompt))]
    texts = [summarize.split_paragraphs(fields["passages"]) for fields in requests]
    assert [sorted(part) for part in texts] == [sorted(passages)] * 2
    assert [(r["confidence"], r["correct"], r["status"]) for r in records] == [
        (0.6, True, "ok"),
        (0.9, False, "ok"),
        (None, None, "unverifiable"),
    ]
    assert result["accuracy"] == 0.5
    assert result["settings"]["knowledge"] == str(path)


def test_pooled_numbers_passages_and_intervals_by_hand(evaluate_biographies, tmp_path):
    """Three of Ada's four claims are supported, and two of Bela's eight; all are stated with 90 %."""
    names, verdicts = ("Ada Lovelace", "Bela Bartok"), (4 * [True], 8 * [False])
    verdicts[0][3], verdicts[1][0], verdicts[1][5] = False, True, True
    passages = {name: [f"passage {i} {name[:3]}fact{i} with words" for i in range(7)] for name in names}
    store = make_store(tmp_path / "enwiki.db", [(name, SEPARATOR.join(passages[name])) for name in names])
    texts_ = []
    for name, right in zip(names, verdicts, strict=True):
        facts = [f"{name[:3]}fact{i % 7}" if ok else f"lie {i} {name[:3]}fact{i % 7}" for i, ok in enumerate(right)]
        lines = [f"{name}: {fact} (90%)." for fact in facts] + [f"{name}: a great person."]
        texts_.append({"entity": name, "generated_paragraph": "\n".join(lines)})
    with FakeServer(annotate) as server:
        result, records = evaluate_biographies(server, paragraphs=write(tmp_path / "p.jsonl", texts_), knowledge=store)
    assert (result["num_questions"], result["num_bins"], result["statuses"]) == (12, 40, {"ok": 12, "not_objective": 2})
    assert [record["correct"] for record in records if record["status"] == "ok"] == verdicts[0] + verdicts[1]
    assert result["accuracy"] == pytest.approx(5 / 12)
    assert result["ece"] == pytest.approx(0.9 - 5 / 12)
    # Resamples of two people are Ada alone, Bela alone or both: the interval's ends are theirs.
    assert (result["ece_low"], result["ece_high"]) == pytest.approx((0.9 - 3 / 4, 0.9 - 2 / 8))
    assert result["factscore"]["factscore"] == pytest.approx((3 / 4 + 2 / 8) / 2)
    requests = [fields for item in server.exchanges if (fields := support.PROMPT.match(item.prompt))]
    for fields in requests:  # five of seven, the one with the claim's word first
        texts = summarize.split_paragraphs(fields["passages"])
        assert len(texts) == 5
        assert fields["claim"].split()[-1] in texts[0].split()
        assert set(texts) < set(passages[fields["entity"]])


def test_a_provider_writes_and_who_is_refused_is_a_status(evaluate_biographies, tmp_path):
    _, path = small_store(tmp_path)
    (tmp_path / "people.txt").write_text("Ada Lovelace\n\nBela Bartok\nAda Lovelace\nNobody\n")

    def fault(number, prompt):
        return Fault("refusal") if "bio about Bela" in prompt and paragraph.PROMPT.match(prompt) else None

    settings = {"entities": tmp_path / "people.txt", "knowledge": path, "accept_failed": True}
    with (
        FakeServer(annotate, fault=fault) as server,
        pytest.raises(ValueError, match=r"None of the claims could be judged \(\{'not_objective': 1, 'refused': 1"),
    ):
        evaluate_biographies(server, writer__name="openai/gpt-4.1-mini", strategy="0-shot", **settings)
    records = rows(tmp_path / "e" / "mine" / "records.jsonl")
    assert [(r["entity"], r["status"]) for r in records] == [
        ("Ada Lovelace", "not_objective"),
        ("Bela Bartok", "refused"),
        ("Nobody", "unverifiable"),
    ]
    assert records[0]["prompt"] == "Write a paragraph bio about Ada Lovelace."
    assert sum("Nobody" in item.prompt for item in server.exchanges) == 0


def test_one_claim_gives_strict_json_and_an_interval_of_one_trial(evaluate_biographies, tmp_path):
    """There are three people: one has a claim, one has an empty biography, and one has no page."""
    pages, path = small_store(tmp_path)
    name = pages[0]["title"]
    texts = [{"entity": name, "generated_paragraph": f"{name}: {phrase(pages[0], 1)} (70%)."}]
    texts += [{"entity": pages[1]["title"], "generated_paragraph": ""}]
    texts += [{"entity": "Nobody", "generated_paragraph": "Nobody: sang."}]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    with FakeServer(annotate) as server:
        result, records = evaluate_biographies(server, paragraphs=write(tmp_path / "p.jsonl", texts), knowledge=path)
    text = (tmp_path / "e" / "mine" / "result.json").read_text()
    lines = (tmp_path / "e" / "mine" / "records.jsonl").read_text().splitlines()
    assert json.loads(text, parse_constant=refuse) == result
    assert [json.loads(line, parse_constant=refuse) for line in lines] == records
    assert result["statuses"] == {"ok": 1, "no_claims": 1, "unverifiable": 1}
    assert (result["accuracy_low"], result["accuracy_high"]) == pytest.approx((0.2065, 1), abs=5e-5)
    assert {name for name, value in result.items() if value is None} == set(result["undefined"])
    page = report_page.page([results.read(tmp_path / "e" / "mine")], {})
    assert "1<small>claims in 1 biography</small>" in page
    assert "ok 1, no_claims 1, unverifiable 1" in page


def test_failed_requests_leave_no_result_until_they_are_accepted(evaluate_biographies, tmp_path):
    pages, path = small_store(tmp_path)
    rows = [{"entity": p["title"], "generated_paragraph": f"{p['title']}: {phrase(p, 1)} (70%)."} for p in pages]
    source = write(tmp_path / "p.jsonl", [*rows, {"entity": "Ada lovelace", "generated_paragraph": ""}])

    def fault(number, prompt):
        return Fault("status", 400) if "Claim: Bela" in prompt and support.PROMPT.match(prompt) else None

    with FakeServer(annotate, fault=fault) as server:
        with pytest.raises(ValueError, match=r"1 of 3 claims failed.*run again.*accept_failed=true"):
            evaluate_biographies(server, paragraphs=source, knowledge=path)
        assert not (tmp_path / "e" / "mine" / "result.json").exists()
        result, records = evaluate_biographies(server, paragraphs=source, knowledge=path, accept_failed=True)
    assert result["statuses"] == {"ok": 1, "failed": 1, "no_claims": 1}
    assert [r["correct"] for r in records] == [True, None, None]
    assert result["factscore"]["respond_ratio"] == pytest.approx(2 / 3)


def test_what_is_missing_stops_before_anything_is_paid_for(evaluate_biographies, tmp_path, capsys, monkeypatch):
    pages, path = small_store(tmp_path)
    source = write(tmp_path / "p.jsonl", [{"entity": pages[0]["title"], "generated_paragraph": "Ada: Ada1 Ada2."}])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with FakeServer(annotate) as server:
        for settings, why in (
            ({"knowledge": tmp_path / "none.sqlite"}, "No knowledge store .*: build one with"),
            ({"retriever": "gtr"}, r"pip install 'lc_jax\[retrieval\]'; or give --config.retriever=bm25"),
            ({"paragraphs": ""}, "Who writes the paragraphs"),
            ({"column": "nothing"}, "no row has text in 'nothing'"),
            ({"entities": write(tmp_path / "x.jsonl", [{"name": 1}])}, r"x\.jsonl: no row has one of \['entity'"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=why):
                evaluate_biographies(server, **{"paragraphs": source, "knowledge": path} | settings)
        with pytest.raises(FileNotFoundError, match=r"result\.json"):  # a dry run leaves no result
            evaluate_biographies(server, paragraphs=source, knowledge=path, retriever="gtr", dry_run=True)
        assert all(step in capsys.readouterr().out for step in ("claims",))
        assert not server.exchanges
        with pytest.raises(AnnotatorError, match="may cost more than"):
            evaluate_biographies(server, paragraphs=source, knowledge=path, budget=1e-9)


def test_the_miniature_world(tmp_path, monkeypatch):
    """Offline and without a key: what its writers say of its cities, against its own encyclopedia."""
    monkeypatch.setenv("LC_OUTPUT", str(tmp_path))
    build_knowledge.run(config_of("build_knowledge", "mini"), None)
    subjects = world.build().split("test")[:40]
    claims_ = [{f.kind: [(f.candidates[0], 70), (f.candidates[1], 30)] for f in s.facts} for s in subjects]
    rows = [
        {"entity": s.description, "generated_paragraph": text.hedged(x)} for s, x in zip(subjects, claims_, strict=True)
    ]
    config = config_of("evaluate_biography", "mini")
    config.paragraphs, config.output = write(tmp_path / "p.jsonl", rows), str(tmp_path / "out")
    config.method, config.limit = "writers", 40
    evaluate_biography.run(config, None)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    right = [fact.candidates[0] == fact.truth for subject in subjects for fact in subject.facts]
    assert (result["accuracy"], result["num_questions"]) == (pytest.approx(sum(right) / len(right)), 120)
    assert result["ece"] == pytest.approx(abs(sum(right) / len(right) - 0.7))
    config.uses_confidence, config.output = False, str(tmp_path / "plain")
    plain = [{"entity": s.description, "generated_paragraph": text.plain({f.kind: f.candidates[0] for f in s.facts})}
             for s in subjects]  # fmt: skip
    for texts in (rows, plain):  # with percentages, which count as 1 then, and without
        write(tmp_path / "p.jsonl", texts)
        evaluate_biography.run(config, None)
        result = json.loads((tmp_path / "plain" / "result.json").read_text())
        assert (result["accuracy"], result["num_questions"]) == (pytest.approx(sum(right) / len(right)), 120)
        assert result["ece"] == pytest.approx(1 - sum(right) / len(right))


@pytest.mark.slow
def test_biographies_of_a_file_need_no_jax(tmp_path):
    pages, path = small_store(tmp_path)
    rows = [{"entity": p["title"], "generated_paragraph": f"{p['title']}: {phrase(p, 1)} (70%)."} for p in pages]
    source = write(tmp_path / "p.jsonl", rows)
    with FakeServer(annotate) as server:
        settings = {
            "paragraphs": source,
            "knowledge": path,
            "retriever": "bm25",
            "method": "m",
            "output": tmp_path / "o",
        }
        settings |= {"annotator.name": "openai/gpt-4.1", "annotator.base_url": server.openai_url}
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT, "--config=configs/evaluate_biography.py",
             *(f"--config.{name}={value}" for name, value in settings.items())],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
            env={"OPENAI_API_KEY": KEY, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "o" / "result.json").read_text())["accuracy"] == 1


def test_two_biographies_of_one_person_are_two(evaluate_biographies, tmp_path):
    pages, path = small_store(tmp_path)
    name = pages[0]["title"]
    texts = [{"entity": name, "generated_paragraph": f"{name}: {phrase(pages[0], n)} (70%)."} for n in (1, 2)]
    with FakeServer(annotate) as server:
        result, records = evaluate_biographies(server, paragraphs=write(tmp_path / "p.jsonl", texts), knowledge=path)
    assert [r["paragraph"] for r in records] == [text["generated_paragraph"] for text in texts]
    assert [r["question_id"] for r in records] == [f"{name}/1", f"{name}#2/1"]
    assert {r["entity"] for r in records} == {name}
    assert result["factscore"]["num_biographies"] == 2
    other = write(tmp_path / "other.txt", [])
    (tmp_path / "other.txt").write_text("Somebody\n")
    with pytest.raises(ValueError, match=r"no row is about one of the entities; it is about .* names \['Somebody'\]"):
        evaluate_biographies(server, paragraphs=write(tmp_path / "p.jsonl", texts), entities=other, knowledge=path)
