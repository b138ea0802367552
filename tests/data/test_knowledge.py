"""The knowledge store: titles, redirects, passages, and builds that are killed, cut off or of another source."""

import concurrent.futures
import contextlib
import gzip
import json
import sqlite3
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from lc_jax.data import knowledge
from lc_jax.data.knowledge import Knowledge
from lc_jax.data.pages import NoPage, Page
from lc_jax.tasks import build_knowledge
from tests.test_configs import config_of

ROOT = Path(__file__).resolve().parents[2]


def write(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def pages(number):
    return [{"title": f"Page {i}", "text": " ".join(f"w{i}x{j}" for j in range(400))} for i in range(number)]


@pytest.fixture
def store(tmp_path):
    def go(rows, **settings):
        path = tmp_path / "knowledge.sqlite"
        knowledge.build(write(tmp_path / "pages.jsonl", rows), path, **settings)
        return Knowledge(path)

    return go


def test_titles_are_found_in_any_case_and_unicode_form(store):
    composed = unicodedata.normalize("NFC", "Béla Bartók")
    pages = store(
        [
            {"title": composed, "text": "A composer."},
            {"title": "ＡＢＢＡ", "text": "A band."},
            {"title": "Straße", "text": "A road."},
            {"title": "Turkey", "text": "A country."},
            {"title": "TURKEY", "text": "A film."},
        ]
    )
    for name in (composed, unicodedata.normalize("NFD", composed), "BÉLA  BARTÓK", "béla_bartók"):
        assert pages.find(name) == Page(composed, ("A composer.",))
    assert pages.find("ABBA").passages == ("A band.",)
    assert pages.find("STRASSE").title == "Straße"
    assert pages.find("Turkey").passages == ("A country.",)  # the very title wins
    assert pages.find("TURKEY").passages == ("A film.",)
    with pytest.raises(NoPage, match=r"'turkey' may be any of \['TURKEY', 'Turkey'\]"):
        pages.find("turkey")


def test_any_thread_may_close_a_store(store):
    """The garbage collector runs in any thread."""
    pages = store([{"title": "Ada Lovelace", "text": "A mathematician."}])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(pages.__exit__).result()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        pages.find("Ada Lovelace")


def test_redirects_are_followed_and_never_for_ever(store):
    pages = store(
        [
            {"title": "JFK", "redirect": "Jack Kennedy"},
            {"title": "Jack Kennedy", "text": "#REDIRECT [[John F. Kennedy#Youth]] {{R}}"},
            {"title": "John F. Kennedy", "text": "A president.", "redirects": ["Kennedy", {"title": "J. F. K."}]},
            {"title": "Kennedy", "text": "A surname."},
            {"title": "A", "redirect": "B"},
            {"title": "B", "redirect": "a"},
            {"title": "C", "redirect": "nowhere"},
            {"title": "D", "redirect": "A"},
            {"title": "d", "redirect": "JFK"},
            {"title": "Mercury (planet)", "text": "A planet."},
            {"title": "Mercury (element)", "text": "A metal."},
        ]
    )
    for name in ("jfk", "Jack Kennedy", "John F. Kennedy", "j. f. k."):
        assert pages.find(name).title == "John F. Kennedy"
    assert pages.find("Kennedy").passages == ("A surname.",)  # a page of its own comes before a redirect
    for name, why in (
        ("A", "'A' go in a circle"),
        ("C", "no page 'C'"),
        ("D", r"'D' may be any of \['A', 'JFK'\]"),
        ("Mercury", r"no page 'Mercury'; there are \['Mercury \(element\)', 'Mercury \(planet\)'\]"),
        ("'; drop table pages; --", "no page"),
        ("", "no page ''"),
    ):
        with pytest.raises(NoPage, match=why):
            pages.find(name)


def test_rows_without_use_are_counted_and_pages_cut_into_passages(tmp_path):
    rows = [
        *pages(2),
        {"title": "Page 1", "text": "again"},
        {"title": " ", "text": "x"},
        {"text": "x"},
        {"title": "Empty", "text": " "},
        {"title": "R", "redirect": "Page 1"},
    ]
    path = tmp_path / "k.sqlite"
    counts = knowledge.build(write(tmp_path / "pages.jsonl.gz", rows), path, passage_words=150)
    assert counts == {"pages": 2, "same title again": 1, "without title": 2, "without text": 1, "redirects": 1}
    passages = Knowledge(path).find("R").passages
    assert [len(passage.split()) for passage in passages] == [150, 150, 100]
    assert " ".join(passages) == rows[1]["text"]


def contents(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {name: sorted(database.execute(f"select * from {name}")) for name in ("pages", "redirects", "meta")}


KILLED = """
import os, signal, sys
from lc_jax.data import knowledge
add, seen = knowledge._add, []
def count(*args):
    seen.append(1)
    if len(seen) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return add(*args)
knowledge._add, knowledge.BATCH = count, 100
knowledge.build(sys.argv[1], sys.argv[2])
"""


def test_a_killed_build_goes_on_where_it_was(tmp_path, monkeypatch):
    source, path = write(tmp_path / "pages.jsonl.gz", pages(500)), tmp_path / "killed.sqlite"
    for row in (250, 120):  # rows of the first run, and of the second
        done = subprocess.run([sys.executable, "-c", KILLED, source, path, str(row)], cwd=ROOT, check=False)
        assert done.returncode == -9
        with pytest.raises(ValueError, match=r"killed.sqlite is .*resumes where it was stopped"):
            Knowledge(path)
    read, add = [], knowledge._add
    monkeypatch.setattr(knowledge, "_add", lambda *args: read.append(args[1]["title"]) or add(*args))
    assert knowledge.build(source, path) == {"pages": 500}
    assert (read[0], len(read)) == ("Page 300", 200)
    knowledge.build(source, tmp_path / "whole.sqlite")
    assert contents(path) == contents(tmp_path / "whole.sqlite")
    read.clear()
    assert knowledge.build(source, path) == {"pages": 500}  # nothing is left to do
    assert not read


def test_a_source_that_is_cut_off_can_be_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(knowledge, "BATCH", 50)
    source, path = write(tmp_path / "pages.jsonl.gz", pages(400)), tmp_path / "k.sqlite"
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) * 3 // 4])
    monkeypatch.setattr(knowledge, "_HEAD", 100)  # a small file's beginning
    with pytest.raises(ValueError, match=r"pages.jsonl.gz is cut off or damaged: download or pack it again"):
        knowledge.build(source, path)
    with pytest.raises(ValueError, match=r"is half built: run configs/build_knowledge.py with the same output"):
        Knowledge(path)
    source.write_bytes(whole)
    assert knowledge.build(source, path) == {"pages": 400}
    assert Knowledge(path).find("page 399").title == "Page 399"


def test_stores_that_are_none_are_refused(tmp_path):
    source, path = write(tmp_path / "pages.jsonl", pages(300)), tmp_path / "k.sqlite"
    with pytest.raises(FileNotFoundError, match=r"No knowledge store .*: build one with configs/build_knowledge.py"):
        Knowledge(path)
    knowledge.build(source, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is cut off or no knowledge store: copy it again, or remove it and build it"):
        Knowledge(path)
    with pytest.raises(ValueError, match="is cut off or no knowledge store: remove it and build it again"):
        knowledge.build(source, path)
    for bad in (b"", b"pickle" * 1000):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="no knowledge store"):
            Knowledge(path)
    with pytest.raises(ValueError, match="no knowledge store"):
        knowledge.build(source, path)
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("create table pages (title, text)")
    with pytest.raises(ValueError, match=r"k\.sqlite is no knowledge store: it has no table documents; build one with"):
        Knowledge(path)


def test_another_source_needs_another_store(tmp_path):
    source, path = write(tmp_path / "pages.jsonl", pages(3)), tmp_path / "k.sqlite"
    knowledge.build(source, path)
    with pytest.raises(ValueError, match="begun with another passage_words: remove it or name another output"):
        knowledge.build(source, path, passage_words=7)
    with pytest.raises(ValueError, match="begun with another source"):
        knowledge.build(write(tmp_path / "others.jsonl", pages(2)), path)
    with pytest.raises(FileNotFoundError, match="No file or folder"):
        knowledge.build(tmp_path / "none.jsonl", path)
    with pytest.raises(ValueError, match=r"has no row with a title and a text: \{'without title': 1\}"):
        knowledge.build(write(tmp_path / "bad.jsonl", [{"name": "x"}]), tmp_path / "bad.sqlite")


def test_the_command_builds_from_a_folder(tmp_path, capsys):
    folder = tmp_path / "wikipedia"
    folder.mkdir()
    write(folder / "train-00000.jsonl", pages(2))
    write(folder / "train-00001.jsonl.gz", [{"title": "Last", "text": "one"}])
    config = config_of("build_knowledge")
    config.source, config.output = str(folder), str(tmp_path / "k.sqlite")
    assert not build_knowledge.needs_devices(config)
    build_knowledge.run(config, None)
    assert "k.sqlite: 3 pages" in capsys.readouterr().out
    assert Knowledge(config.output).find("last").passages == ("one",)


def test_a_text_may_be_a_list_of_sentences(store):
    lines = ["Lise Meitner was an Austrian-Swedish physicist.", "In 1938 she fled to Stockholm."]
    pages = store(
        [
            {"title": "Lise Meitner", "text": lines},
            {"title": "Ada Lovelace", "text": "Ada Lovelace was an English mathematician."},
            {"title": "Lise", "text": ["#REDIRECT [[Lise Meitner]]"]},
        ]
    )
    assert pages.find("lise meitner").passages == (" ".join(lines),)
    assert pages.find("Ada Lovelace").passages == ("Ada Lovelace was an English mathematician.",)
    assert pages.find("Lise").title == "Lise Meitner"


def test_a_cirrus_dump_alternates_index_lines_and_pages_whose_redirects_lead_to_them(tmp_path):
    rows = [
        {"index": {"_type": "_doc", "_id": "7"}},
        {"title": "Lise Meitner", "text": "A physicist.", "redirect": [{"namespace": 0, "title": "Meitner"}]},
        {"index": {"_type": "_doc", "_id": "8"}},
        {"title": "Ada Lovelace", "text": "A mathematician.", "redirect": []},
        {"title": "Bare", "redirect": []},
        {"title": "Nested", "text": {"en": "x"}},
    ]
    path = tmp_path / "k.sqlite"
    assert knowledge.build(write(tmp_path / "wiki-cirrussearch-content.json.gz", rows), path) == {
        "pages": 2,
        "index lines": 2,
        "without text": 1,
        "with text that is neither text nor a list of sentences": 1,
    }
    assert Knowledge(path).find("meitner").passages == ("A physicist.",)


def test_a_folder_of_extractor_files_is_one_source(tmp_path):
    for name, title in (("AA/wiki_00", "A"), ("AA/wiki_01", "B"), ("AB/wiki_00", "C")):
        (tmp_path / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "text" / name, [{"id": "1", "url": "u", "title": title, "text": f"{title} is a letter."}] * 2)
    path = tmp_path / "k.sqlite"
    assert knowledge.build(tmp_path / "text", path) == {"pages": 3, "same title again": 3}
    assert Knowledge(path).find("C").passages == ("C is a letter.",)


def test_files_of_one_folder_need_no_common_name(tmp_path):
    (tmp_path / "dump").mkdir()
    write(tmp_path / "dump" / "people.jsonl", pages(1))
    write(tmp_path / "dump" / "towns.jsonl.gz", [{"title": "Last", "text": "one"}])
    assert knowledge.build(tmp_path / "dump", tmp_path / "k.sqlite") == {"pages": 2}
