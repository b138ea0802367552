"""Files that this program writes are strict JSON in UTF-8, whatever the text in them."""

import json

import pytest

from lc_jax.data import jsonl


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\ud83d", "a\ufffd"),
        ("\ude00\ud83d!", "\ufffd\ufffd!"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("é", "é"),
    ],
)
def test_halves_of_surrogate_pairs_are_replaced_in_every_file(tmp_path, text, written):
    value = {"text": [text], text: 1}
    expected = {"text": [written], written: 1}
    assert json.loads(jsonl.dumps(value)) == expected
    jsonl.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == expected
    jsonl.write_jsonl(tmp_path / "a.jsonl", [value])
    jsonl.append_jsonl(tmp_path / "a.jsonl", [value])
    assert jsonl.read_jsonl(tmp_path / "a.jsonl") == [expected] * 2
