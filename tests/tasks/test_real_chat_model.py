"""SmolLM2-135M-Instruct from its GGUF file: the tokenizer and the model of somebody else's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import real_files
from lc_jax import main
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.types import Message

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The converted folder; skipped where the file cannot be had."""
    try:
        path = real_files.gguf_file("smollm2-135m")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    flags = [f"--config.source={path}", f"--config.destination={folder}"]
    main.run_task(["main", "--config=configs/convert.py", "--config.compilation_cache=", *flags])
    return folder


def test_token_ids_of_texts_and_of_a_conversation(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode_prompt("Hello world") == [19556, 905]
    assert tokenizer.encode_prompt("In 1987, 42%") == [788, 216, 33, 41, 40, 39, 28, 216, 36, 34, 21]
    assert (tokenizer.prefix, tokenizer.stop_ids, tokenizer.end_of_turn_id) == ((), (2, 0), 2)
    ids = tokenizer.encode_prompt((Message("user", "Hello world"),))
    system = "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert tokenizer.hf.decode(ids) == (
        f"<|im_start|>{system}<|im_end|>\n<|im_start|>user\nHello world<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [i for i in ids if i < 17] == [1, 2, 1, 2, 1]
    assert tokenizer.with_pad_token().pad_id == 49152  # its own is the end of a turn, which is trained


HARD = [
    " leading", "trailing ", "a\n\nb\r\n\tc", "12345 6.78%", "naïve café: “quotes” …", "日本語 テスト",
    "🙂👩‍👩‍👧", "don't I'll WE'VE", "<|im_start|>user", "  two   spaces", "x" * 50, "\u0000\u0007", "ﬁ Å e\u0301",
]  # fmt: skip


@pytest.mark.parametrize("text", HARD)
def test_texts_come_back(folder, text):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode_prompt(text)) == text


def test_generation_config_has_all_stop_tokens(folder):
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


def test_logits_and_greedy_tokens_are_those_of_transformers(folder, tmp_path):
    """In a process of its own, on one device; the benchmark fails for other logits and tokens than the peer's."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "benchmarks.real_model", "--output", str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).resolve().parents[2])
    record = json.loads((tmp_path / "real_model-cpu.json").read_text())
    assert len(record["rows"]) == 9
    for row in record["rows"]:
        assert row["seconds"] > 0
        assert row["peer_seconds"] > 0
    for row in [row for row in record["rows"] if row["name"].endswith("float32")]:
        assert row["notes"]["largest difference of logits"] < 1e-3
        assert row["notes"]["largest difference of log-probabilities"] < 1e-3
        assert row["notes"]["texts of 4 with the same 8 greedy tokens"] == 4
