"""FActScore's SQLite store: read as it is, searched without case and Unicode form, never written to, and built from."""

import contextlib
import sqlite3
import unicodedata

import pytest

from lc_jax.data import documents, knowledge
from lc_jax.data.documents import SEPARATOR
from lc_jax.data.knowledge import Knowledge
from lc_jax.data.pages import NoPage, Page

LISE = SEPARATOR.join(
    ["<s>Lise Meitner was a physicist.</s><s>She was born in Vienna.", "</s>In 1938  she fled.</s>", "<s></s>"]
)


def make_store(path, rows, table="documents (title PRIMARY KEY, text)"):
    """Writes a file as FActScore does."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE {table}")
        database.executemany("INSERT INTO documents VALUES (?, ?)", rows)
    return path


def test_the_passages_of_the_store_are_taken_as_they_were_cut(tmp_path):
    path = make_store(tmp_path / "enwiki-20230401.db", [("Lise Meitner", LISE), ("Ada Lovelace", "<s>Ada.</s>")])
    before = path.read_bytes()
    with Knowledge(path) as store:
        assert store.find("Lise Meitner") == Page(
            "Lise Meitner", ("Lise Meitner was a physicist. She was born in Vienna.", "In 1938 she fled.")
        )
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.database.execute("delete from documents")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no journal, no index


def test_only_a_text_that_nobody_has_cut_is_cut_here(tmp_path):
    words = [f"w{i}" for i in range(400)]
    parts = [" ".join(words[:256]), " ".join(words[:257])]
    path = make_store(tmp_path / "own.db", [("A", SEPARATOR.join(parts))])
    assert [len(passage.split()) for passage in Knowledge(path).find("A").passages] == [256, 180, 77]


def test_titles_are_found_in_any_case_and_unicode_form(tmp_path):
    composed = unicodedata.normalize("NFC", "Béla Bartók")
    names = [composed, "Turkey", "TURKEY", "Straße", "Mercury (planet)", "Mercury (element)", "ada", "George W. Bush"]
    rows = [(name, f"<s>About {name}.</s>") for name in names]
    store = Knowledge(make_store(tmp_path / "enwiki.db", [*rows, (None, "x"), (b"\xff", "y")]))
    for name in (composed, unicodedata.normalize("NFD", composed), "BÉLA  BARTÓK", "béla_bartók"):
        assert store.find(name) == Page(composed, (f"About {composed}.",))
    assert store.find("STRASSE").title == "Straße"
    assert store.find("Ada").title == "ada"
    assert store.find("TURKEY").passages == ("About TURKEY.",)  # the very title wins
    assert store.find("mercury (Planet)").title == "Mercury (planet)"
    for name, why in (
        ("turkey", r"'turkey' may be any of \['TURKEY', 'Turkey'\]"),
        ("Mercury", r"no page 'Mercury'; there are \['Mercury \(element\)', 'Mercury \(planet\)'\]"),
        ("George", "no page 'George'$"),
        ("'; drop table documents; --", "no page"),
    ):
        with pytest.raises(NoPage, match=why):
            store.find(name)


def test_a_title_as_written_needs_no_look_at_the_others(tmp_path, monkeypatch):
    store = Knowledge(make_store(tmp_path / "enwiki.db", [("A", "<s>a</s>"), ("B", "<s>b</s>")]))
    monkeypatch.setattr(documents, "_hash", None)
    assert store.find("B").passages == ("b",)
    with pytest.raises(TypeError):
        store.find("b")


def test_pages_that_lead_elsewhere_are_redirects(tmp_path):
    rows = [
        ("JFK", "<s>#REDIRECT [[Jack Kennedy]]</s>"),
        ("Jack Kennedy", "<s>#redirect [[john F. Kennedy#Youth]] {{R}}</s>"),
        ("John F. Kennedy", "<s>A president.</s>"),
        ("A", "#REDIRECT [[B]]"),
        ("B", "#REDIRECT [[a]]"),
        ("C", "#REDIRECT [[nowhere]]"),
        ("Empty", "<s></s>"),
        ("Null", None),
    ]
    store = Knowledge(make_store(tmp_path / "enwiki.db", rows))
    assert store.find("jfk") == Page("John F. Kennedy", ("A president.",))
    for name, why in (("A", "go in a circle"), ("C", "no page 'C'"), ("Empty", "no page"), ("Null", "no page 'Null'")):
        with pytest.raises(NoPage, match=why):
            store.find(name)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("documents (id PRIMARY KEY, text)", r"its table documents has the columns \['id', 'text'\]; build one with"),
        ("documents (title PRIMARY KEY, text)", "its table documents is empty; build one with"),
    ],
)
def test_another_table_of_documents_is_refused_in_a_line(tmp_path, table, why):
    path = make_store(tmp_path / "other.db", [], table)
    with pytest.raises(ValueError, match=rf"other\.db is no knowledge store: {why}") as caught:
        Knowledge(path)
    assert "give FActScore's enwiki-20230401.db (--config.knowledge or LC_KNOWLEDGE)" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_web_page_and_half_a_download_are_refused_in_a_line(tmp_path):
    path = tmp_path / "enwiki-20230401.db"
    path.write_text("<!DOCTYPE html><html>Virus scan warning</html>")
    with pytest.raises(ValueError, match="no SQLite file, it begins with '<!DOCTYPE html>'"):
        Knowledge(path)
    path.unlink()
    make_store(path, [(f"Page {i}", "<s>x</s>" * 300) for i in range(30)])
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"enwiki-20230401\.db is cut off .*: copy it again"):
        Knowledge(path)


def test_a_store_of_ours_can_be_built_from_it_but_not_over_it(tmp_path):
    source = make_store(tmp_path / "enwiki.db", [("Lise Meitner", LISE), ("Empty", None)])
    path = tmp_path / "k.sqlite"
    assert knowledge.build(source, path) == {"pages": 1, "without text": 1}
    text = "Lise Meitner was a physicist. She was born in Vienna. In 1938 she fled."
    assert Knowledge(path).find("lise meitner").passages == (text,)
    before = source.read_bytes()
    with pytest.raises(ValueError, match=r"enwiki\.db is FActScore's and can be read as it is: name another output"):
        knowledge.build(path, source)
    assert source.read_bytes() == before
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as database, database:
        database.execute("create table pages (title)")
    with pytest.raises(ValueError, match=r"other\.db has no table documents \(title, text\)"):
        knowledge.build(tmp_path / "other.db", tmp_path / "o.sqlite")
