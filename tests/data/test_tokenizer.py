import json

import pytest

from lc_jax.data.tokenizer import decode, encode, fits, load_tokenizer, prepare

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizers(recordings, assets):
    def fast(name, **special):
        file = str(assets / "tokenizers" / f"{name}.json")
        return prepare(transformers.PreTrainedTokenizerFast(tokenizer_file=file, **special))

    return {
        "tiny": load_tokenizer(recordings / "tokenizer_tiny"),
        "llama2": fast("llama2", bos_token="<s>", eos_token="</s>", unk_token="<unk>"),
        "neox": fast("gpt_neox", eos_token="<|endoftext|>"),
    }


@pytest.fixture(scope="module")
def recorded(recordings):
    return json.loads((recordings / "data.json").read_text())


def test_a_pad_token_of_its_own(tokenizers):
    assert [t.pad_token_id for t in tokenizers.values()] == [512, 32000, 50277]
    assert len(tokenizers["tiny"]) == 513
    assert prepare(tokenizers["tiny"]).pad_token_id == 512
    tokenizers["neox"].pad_token = tokenizers["neox"].eos_token
    assert prepare(tokenizers["neox"]).pad_token_id == 50277


def test_ids_are_the_published_ones_but_for_special_tokens_in_data(tokenizers, recorded):
    compared = 0
    for name, cases in recorded["pair_tokenization"].items():
        tokenizer = tokenizers[name]
        for case in cases:
            if any(token in case["text"] for token in tokenizer.all_special_tokens):
                body = encode(tokenizer, case["text"])[tokenizer.bos_token is not None :]
                assert not set(body) & set(tokenizer.all_special_ids)
                assert decode(tokenizer, body) == case["text"]
            elif name != "tiny" or not case["text"].startswith(" "):  # see load_tokenizer
                assert encode(tokenizer, case["text"]) == case["ids"], (name, case["text"])
                compared += 1
    assert compared > 35


def test_decoding_with_and_without_clean_up(tokenizers, recorded):
    for case in recorded["batch_decode"]:
        tokenizer = tokenizers[case["tokenizer"]]
        assert decode(tokenizer, case["ids"]) == case["skip_special_no_cleanup"]
        assert decode(tokenizer, case["ids"], clean_up=True) == case["skip_special_cleanup"]


def test_fits_counts_tokens(tokenizers):
    assert fits(tokenizers["llama2"], 3)("Hello world")
    assert not fits(tokenizers["llama2"], 2)("Hello world")


def test_no_tokenizer_there(tmp_path):
    with pytest.raises(ValueError, match=r"No tokenizer at .*download one"):
        load_tokenizer(tmp_path)
