"""Entities of biographies: FActScore's lists and generations, a user's own rows, and files that are none of these."""

import json

import pytest

from lc_jax.data.entities import load_entities
from lc_jax.miniature import world


def factscore_data(folder):
    """Writes lists and generations as they are in FActScore's data.zip."""
    for split, names in (("labeled", "Focus\nKang\n"), ("unlabeled", "\ufeffMarianne McAndrew\n\nFernando da Costa\n")):
        (folder / split).mkdir(parents=True)
        (folder / split / "prompt_entities.txt").write_text(names, encoding="utf-8")
    rows = [{"topic": "Kang", "output": "A biography.", "cat": ["rare"]}, {"topic": "Focus", "output": "Another."}]
    (folder / "unlabeled" / "GPT-4.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_factscores_lists_and_generations(tmp_path):
    folder = factscore_data(tmp_path / "data")
    people = ["Marianne McAndrew", "Fernando da Costa"]
    assert load_entities(str(folder)) == people
    assert load_entities(str(folder), "labeled") == ["Focus", "Kang"]
    assert load_entities(str(folder / "unlabeled")) == people
    assert load_entities(str(folder / "unlabeled" / "prompt_entities.txt")) == people
    assert load_entities(str(folder / "unlabeled" / "GPT-4.jsonl")) == ["Kang", "Focus"]


def test_names_are_distinct_and_in_order_whatever_the_name_of_their_file(tmp_path):
    path = tmp_path / "people"
    path.write_text("Ada Lovelace \nBéla Bartók\r\nAda Lovelace\n")
    assert load_entities(str(path)) == ["Ada Lovelace", "Béla Bartók"]
    rows = [{"Title": "A", "name": "B"}, {"entity": " "}, {"entity": "C"}, {"topic": None, "name": "D"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_entities(str(tmp_path / "rows.jsonl")) == ["A", "C", "D"]


def test_the_cities_of_the_miniature():
    assert load_entities("miniature", "test") == [subject.description for subject in world.build().split("test")]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        (
            "prompt_entities.txt",
            None,
            r"No file or folder of entities .*prompt_entities\.txt: the paper's 500 are",
        ),
        ("empty.txt", "\n \n", r"empty\.txt holds no name; give a file with one name a line"),
        ("binary.txt", b"\xff\xfe\xff", r"binary\.txt is no UTF-8 text"),
        ("rows.csv", "who,what\nAda,x\n", r"no row has one of \['entity', .*\]; its columns are \['what', 'who'\]"),
    ],
)
def test_what_names_nobody_is_one_line_with_what_to_fetch(tmp_path, name, text, why):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((FileNotFoundError, ValueError), match=why) as caught:
        load_entities(str(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1
