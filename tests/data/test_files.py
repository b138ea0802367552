"""Files as people have them: each is read whole, or refused in one line that says what it is and what to do."""

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import zipfile

import hypothesis.strategies as st
import pyarrow
import pytest
from hypothesis import given
from pyarrow import feather, parquet

from lc_jax.data.files import stream_file
from lc_jax.data.rows import load_placed_rows, load_rows

ROWS = [
    {"question": "Which river flows through Linz?", "answer": "Danube"},
    {"question": "Which river flows through Graz?", "answer": "Mur; or „Mura“"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
HEADED = [["question", "answer"], ['"Which river flows through Linz?"', "Danube"]]
HEADED += [['"Which river flows through Graz?"', '"Mur; or „Mura“"']]


def delimited(mark, number=""):
    """The rows as text; `number`: begins each row but the header, under an empty name."""
    lines = [mark.join([*([number and i * number] if number else []), *cells]) for i, cells in enumerate(HEADED)]
    return "\n".join(lines) + "\n"


COLUMNS = {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_rows(path)


@pytest.mark.parametrize("packer", ["", *PACKERS])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", LINES),
        ("A.JSONL", LINES),
        ("a.ndjson", LINES),
        ("lines.csv", LINES),
        ("blank.jsonl", f"\n{LINES}\n\n"),
        ("windows.jsonl", LINES.replace("\n", "\r\n")),
        ("whole.jsonl", json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps(ROWS)),
        ("container.json", json.dumps({"version": "1", "questions": ROWS})),
        ("columns.json", json.dumps(COLUMNS)),
        ("split.json", json.dumps({"columns": list(ROWS[0]), "index": [0, 1], "data": [[*r.values()] for r in ROWS]})),
        ("table.json", json.dumps({"schema": {"fields": [{"name": "question"}]}, "data": ROWS})),
        ("lists.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
        ("comma.csv", delimited(",")),
        ("semicolon.CSV", delimited(";")),
        ("excel.csv", "sep=;\n" + delimited(";")),
        ("tab.csv", delimited("\t")),
        ("a.tsv", delimited("\t")),
        ("index.csv", delimited(",", "1")),
    ],
)  # fmt: skip
def test_one_table_in_every_text_format(tmp_path, name, content, packer):
    packed = PACKERS[packer](content.encode()) if packer else content
    assert read(tmp_path, name + packer, packed) == ROWS
    assert read(tmp_path, name, packed) == ROWS  # packed, but its name does not say so


def test_rows_by_id_keep_their_ids(tmp_path):
    by_row_number = {str(i): row for i, row in enumerate(ROWS)}  # pandas' orient="index"
    assert read(tmp_path, "index.json", json.dumps(by_row_number)) == ROWS
    by_number = {str(i + 7): row for i, row in enumerate(ROWS)}
    assert read(tmp_path, "by_id.json", json.dumps(by_number)) == [{"id": "7"} | ROWS[0], {"id": "8"} | ROWS[1]]
    by_id = {"a": {"id": "x"} | ROWS[0], "b": {"id": "y"} | ROWS[1]}
    assert [row["id"] for row in read(tmp_path, "ids.json", json.dumps(by_id))] == ["x", "y"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.csv.gz"])
def test_byte_order_marks_say_how_a_file_is_encoded(tmp_path, name, encoding):
    content = (delimited(",") if ".csv" in name else LINES).encode(encoding)
    assert read(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content) == ROWS


def test_the_nesting_of_squad_and_triviaqa(tmp_path):
    answers = {"answers": [{"text": "Danube", "answer_start": 4}]}
    qas = [{"id": "q1", "question": "Which river?", **answers}, {"id": "q2", "question": "Which town?", **answers}]
    squad = {"version": "1.1", "data": [{"title": "Linz", "paragraphs": [{"context": "The Danube.", "qas": qas}]}]}
    expected = [{"title": "Linz", "context": "The Danube."} | question for question in qas]
    assert read(tmp_path, "dev.json", json.dumps(squad)) == expected
    assert read(tmp_path, "data.json", json.dumps(squad["data"])) == expected
    trivia = [{"QuestionId": "tc_1", "Question": "Who?", "Answer": {"Value": "Ada", "Aliases": ["Ada Lovelace"]}}]
    assert read(tmp_path, "trivia.json", json.dumps({"Data": trivia, "Domain": "Web", "Split": "dev"})) == trivia


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "answers": [{"text": "Ada"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"prompt": "Hi", "completion": "Ho"},
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_of_one_row_is_that_row(tmp_path, row, name, indent):
    assert read(tmp_path, name, json.dumps(row, indent=indent)) == [row]


def test_parquet_is_recognised_by_its_content_and_dates_become_text(tmp_path):
    import datetime

    path = tmp_path / "a.bin"
    parquet.write_table(pyarrow.Table.from_pylist([{"question": "Q", "day": datetime.date(2024, 2, 1)}]), path)
    assert load_rows(path) == [{"question": "Q", "day": "2024-02-01"}]


def excel(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "<worksheet/>")
    return buffer.getvalue()


def sqlite(tmp_path):
    database = sqlite3.connect(tmp_path / "d.sqlite")
    database.execute("create table t (a)")
    database.commit()
    database.close()
    return (tmp_path / "d.sqlite").read_bytes()


def arrow(tmp_path):
    feather.write_feather(pyarrow.table({"a": [1]}), tmp_path / "a.feather")
    return (tmp_path / "a.feather").read_bytes()


def empty_parquet(tmp_path):
    parquet.write_table(pyarrow.table({"question": [], "answer": []}), tmp_path / "empty.parquet")
    return (tmp_path / "empty.parquet").read_bytes()


def damaged_parquet(tmp_path):
    parquet.write_table(pyarrow.table({"a": list(range(1000))}), tmp_path / "whole.parquet")
    return (tmp_path / "whole.parquet").read_bytes()[:500]


REFUSED = [
    ("a.xlsx", lambda _: excel("xl/worksheets/sheet1.xml"), "is an Excel workbook: save the sheet as CSV"),
    ("renamed.csv", lambda _: excel("xl/worksheets/sheet1.xml"), "is an Excel workbook"),
    ("a.xls", lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook"),
    ("a.zip", lambda _: excel("rows.jsonl"), r"is a zip archive \(of \['rows.jsonl'\]\): unpack it"),
    ("a.jsonl", lambda _: b"\x80\x04\x95\x0f\x00.", "is a Python pickle, which can run code and is never loaded"),
    ("a.jsonl.zst", lambda _: b"\x28\xb5\x2f\xfd\x00", "is packed by Zstandard: unpack it with `zstd -d`"),
    ("a.db", sqlite, "is an SQLite database: export the table"),
    ("a.arrow", arrow, "is an Arrow file"),
    ("a.json", lambda _: b"\n<!DOCTYPE html>\n<html>", "is an HTML page, perhaps of a log-in or an error"),
    ("a.xml", lambda _: b"<?xml version='1.0'?>", "is XML"),
    ("a.csv", lambda _: b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
    ("a.parquet", damaged_parquet, "cut off or damaged"),
    ("a.parquet", lambda _: b'{"a": 1}', "is no Parquet file"),
    ("a.jsonl", lambda _: LINES.encode("utf-16-le"), "UTF-16 without a byte order mark: save it as UTF-8"),
    ("a.jsonl", lambda _: gzip.compress(LINES.encode())[:-12], "cut off or damaged"),
    ("a.jsonl", lambda _: b"", r"holds no rows: it is empty\.$"),
    ("a.csv", lambda _: b"\n \n\n", r"holds no rows: it is empty\.$"),
    ("a.csv", lambda _: b"question,answer\n", r"a header only, with the columns \['question', 'answer'\]; put rows"),
    ("a.csv", lambda _: b"\xef\xbb\xbfsep=;\n\nquestion;a,b\n", r"with the columns \['question', 'a,b'\]"),
    ("a.tsv.gz", lambda _: gzip.compress(b"question\tanswer\n"), r"with the columns \['question', 'answer'\]"),
    ("a.parquet", empty_parquet, r"with the columns \['question', 'answer'\]"),
    ("a.json", lambda _: b"[]", r"holds no rows: it is empty\.$"),
    ("a.txt", lambda _: b"Write about Linz.\n", "is not of the formats jsonl, ndjson, json, csv, tsv, parquet"),
    ("a.json", lambda _: b"question,answer\n1,2\n", r"a.json, line 1: not JSON"),
    ("a.json", lambda _: b'{"a": [[1, 2]], "b": 3}', "lists of cells without column names"),
    ("a.json", lambda _: b'{"train": [{"a": 1}], "dev": [{"a": 2}, {"a": 3}]}', r"several lists of objects, \['train'"),
    ("a.json", lambda _: b'[["a", 1]]', "row 1: a list, but a row is an object"),
    ("a.jsonl", lambda _: b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: the key 'a' is there twice"),
    ("a.jsonl", lambda _: b'{"a": "\\ud83d"}\n', "line 1: an escape .* half of a surrogate pair"),
    ("a.csv", lambda _: b"a,b,a\n1,2,3\n", r"columns \['a'\] are there more than once"),
    ("a.csv", lambda _: b"a;b\n1;2\n1;2;3\n", r"line 3: 3 cells, but the header has 2 \(delimiter ';'\)"),
    ("a.csv", lambda _: b'a,b\n"1,2\n', "line 2: unexpected end of data"),
]


@pytest.mark.parametrize(("name", "make", "message"), REFUSED, ids=[f"{name}: {m[:30]}" for name, _, m in REFUSED])
def test_other_files_are_refused_in_one_line(tmp_path, name, make, message):
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, name, make(tmp_path))
    assert str(tmp_path / name) in str(refused.value)
    assert "\n" not in str(refused.value)
    if "cut off" not in message:
        assert "again" not in str(refused.value) or "no Parquet" in message


@pytest.mark.parametrize("packed", [False, True])
def test_latin_1_is_refused_with_the_place_of_the_byte(tmp_path, packed):
    content = b"question,answer\n" + b"a,b\n" * 5000 + "Qué,Mur\n".encode("latin-1")
    position = 16 + 4 * 5000 + 2
    with pytest.raises(ValueError, match=rf"byte {position} \(line 5002\) is 0xe9.*not UTF-8; .*iconv -f latin1"):
        read(tmp_path, "a.csv", gzip.compress(content) if packed else content)


def test_places_count_lines_as_an_editor_does(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [(str(place), row["a"]) for place, row in load_placed_rows(path)] == [
        (f"{path}, line 2", 1),
        (f"{path}, line 4", 2),
    ]
    (tmp_path / "b.csv").write_text('a,b\n"1\n2",3\n4,5\n')
    assert [place.number for place, _ in stream_file(tmp_path / "b.csv")] == [3, 4]
    with pytest.raises(FileNotFoundError, match=r"No file .*none.jsonl'; give one"):
        load_placed_rows(tmp_path / "none.jsonl")


def test_folders_say_what_they_hold(tmp_path):
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"holds no data files .*it holds \['notes.docx'\]"):
        load_rows(tmp_path)
    (tmp_path / "AA").mkdir()
    (tmp_path / "AA" / "wiki_00").write_text(LINES)
    assert load_rows(tmp_path) == ROWS
    (tmp_path / "train.JSONL").write_text(LINES)
    (tmp_path / "dev.ndjson.gz").write_bytes(gzip.compress(LINES.encode()))
    assert load_rows(tmp_path, "train") == load_rows(tmp_path, "dev") == ROWS


@pytest.mark.parametrize("empty", ["", "none", "None", "null", None])
def test_an_empty_source_is_none_and_never_the_current_folder(empty):
    with pytest.raises(ValueError, match="setting of the source is empty"):
        load_rows(empty)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TABLE = st.lists(st.fixed_dictionaries({"question": TEXT, "answer": TEXT}), min_size=1, max_size=5)


@given(
    TABLE,
    st.sampled_from(["a.jsonl", "a.json", "a.NDJSON"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
def test_any_text_survives(tmp_path_factory, table, name, encoding, packed):
    path = tmp_path_factory.mktemp("any") / name
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table).encode(encoding)
    path.write_bytes(gzip.compress(text) if packed else text)
    assert load_rows(path) == table


@given(st.binary(max_size=300), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a", "a.txt"]))
def test_any_bytes_are_rows_or_one_line(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    try:
        rows, message = load_rows(path), ""
    except ValueError as error:
        rows, message = [], str(error)
    assert all(isinstance(row, dict) for row in rows)
    assert bool(rows) != (str(path) in message)
    assert "\n" not in message
