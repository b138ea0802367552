import json
import logging
from pathlib import Path

import pytest

from lc_jax.data.tokenizer import load_tokenizer, make_tokenizer
from lc_jax.prompts import load_templates
from lc_jax.types import Message

transformers = pytest.importorskip("transformers")
CASES = Path(__file__).resolve().parents[1] / "cases"


@pytest.fixture(scope="module")
def tokenizers(recordings, assets):
    def fast(name, **special):
        file = str(assets / "tokenizers" / f"{name}.json")
        return make_tokenizer(transformers.PreTrainedTokenizerFast(tokenizer_file=file, **special), name)

    return {
        "tiny": load_tokenizer(recordings / "tokenizer_tiny"),
        "llama2": fast("llama2", bos_token="<s>", eos_token="</s>", unk_token="<unk>"),
        "neox": fast("gpt_neox", eos_token="<|endoftext|>"),
    }


@pytest.fixture(scope="module")
def recorded(recordings):
    return json.loads((recordings / "data.json").read_text())


def test_a_pad_token_of_its_own(tokenizers):
    assert [t.with_pad_token().pad_id for t in tokenizers.values()] == [512, 32000, 50277]
    assert len(tokenizers["tiny"]) == 513
    assert tokenizers["tiny"].with_pad_token().pad_id == 512
    tokenizers["neox"].hf.pad_token = tokenizers["neox"].hf.eos_token
    assert tokenizers["neox"].pad_id is None
    assert tokenizers["neox"].with_pad_token().pad_id == 50277


def test_ids_are_the_published_ones_but_for_special_tokens_in_data(tokenizers, recorded):
    compared = 0
    for name, cases in recorded["pair_tokenization"].items():
        tokenizer = tokenizers[name]
        for case in cases:
            if any(token in case["text"] for token in tokenizer.hf.all_special_tokens):
                body = tokenizer.encode_prompt(case["text"])[tokenizer.hf.bos_token is not None :]
                assert not set(body) & set(tokenizer.hf.all_special_ids)
                assert tokenizer.decode(body) == case["text"]
            elif name != "tiny" or not case["text"].startswith(" "):  # see load_tokenizer
                assert tokenizer.encode_prompt(case["text"]) == case["ids"], (name, case["text"])
                compared += 1
    assert compared > 35


def test_decoding_with_and_without_clean_up(tokenizers, recorded):
    for case in recorded["batch_decode"]:
        tokenizer = tokenizers[case["tokenizer"]]
        assert tokenizer.decode(case["ids"]) == case["skip_special_no_cleanup"]
        assert tokenizer.decode(case["ids"], clean_up=True) == case["skip_special_cleanup"]


def test_fits_counts_tokens(tokenizers):
    assert tokenizers["llama2"].fits(3)("Hello world")
    assert not tokenizers["llama2"].fits(2)("Hello world")


def test_no_tokenizer_there(tmp_path):
    with pytest.raises(ValueError, match=r"No tokenizer at .*download one"):
        load_tokenizer(tmp_path)


@pytest.fixture
def template_fails(monkeypatch):
    """Lets every chat template raise an error."""

    def set_error(error):
        def raise_error(*args, **kwargs):
            raise error

        monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "apply_chat_template", raise_error)

    return set_error


def test_a_missing_jinja2_is_named_and_not_taken_for_a_refusal_of_the_template(template_fails):
    chat, plain = load_tokenizer(CASES / "chat"), load_tokenizer(CASES / "appended_eos")
    template_fails(ImportError("apply_chat_template requires jinja2 to be installed."))
    calls = [
        lambda: load_tokenizer(CASES / "chat"),  # else its turns would end with another token
        lambda: chat.encode_prompt((Message("user", "Hi"),)),
        lambda: plain.add_chat_template(load_templates("short").paragraph),
    ]
    for call in calls:
        with pytest.raises(ImportError, match="jinja2 to be installed"):
            call()
    assert load_tokenizer(CASES / "appended_eos").encode_prompt("Hi")  # without a template nothing needs it


def test_a_template_that_fails_is_warned_of_with_its_own_words(template_fails, caplog):
    chat = load_tokenizer(CASES / "chat")
    assert chat.end_of_turn_id is not None
    template_fails(TypeError("content is a list here\nand more"))
    with caplog.at_level("WARNING"):
        tokenizer = load_tokenizer(CASES / "chat")
    assert tokenizer.end_of_turn_id is None
    (record,) = caplog.records
    assert record.getMessage().endswith(f"(content is a list here); turns end with {tokenizer.hf.eos_token}.")
    with pytest.raises(ValueError, match=r"refuses the messages: content is a list here$"):
        chat.encode_prompt((Message("user", "Hi"),))


def test_a_reward_models_type_brings_no_warning_of_transformers(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((CASES / "chat" / name).read_bytes())
    config = json.loads((CASES / "chat" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "reward_model", "backbone_config": config}))
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    try:
        load_tokenizer(tmp_path)
        assert lines == []
        logging.getLogger("transformers").warning("another")
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert lines == ["another"]
