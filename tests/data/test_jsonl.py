"""Files that this program writes are strict JSON in UTF-8, whatever the text in them."""

import errno
import json
import os

import pytest

from lc_jax.data import jsonl


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("a\ud83d", "a\ufffd"),
        ("\ude00\ud83d!", "\ufffd\ufffd!"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("é", "é"),
    ],
)
def test_halves_of_surrogate_pairs_are_replaced_in_every_file(tmp_path, text, replacement):
    value = {"text": [text], text: 1}
    expected = {"text": [replacement], replacement: 1}
    assert json.loads(jsonl.dumps(value)) == expected
    jsonl.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == expected
    jsonl.write_jsonl(tmp_path / "a.jsonl", [value])
    jsonl.append_jsonl(tmp_path / "a.jsonl", [value])
    assert jsonl.read_jsonl(tmp_path / "a.jsonl") == [expected] * 2


@pytest.mark.parametrize(
    "write", [lambda path: jsonl.write_json(path, {"b": 1}), lambda path: jsonl.write_jsonl(path, [{"b": 1}])]
)
def test_a_full_disk_leaves_the_former_file_and_no_half_one(tmp_path, monkeypatch, write):
    def write_half(path, text, encoding):
        path.write_bytes(text.encode()[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_bytes(b"former")
    monkeypatch.setattr(type(tmp_path), "write_text", write_half)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"former")]
