"""GGUF files that the tests write themselves become checkpoint folders, by value; other files are refused."""

import importlib.util
import json

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Quantisation
from safetensors.numpy import load_file

from lc_jax.data import gguf_tokenizer
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models.gguf import GGUF
from lc_jax.types import Message
from tests.models.gguf_files import TOKENIZER, TOKENS, convert, write

HEADS, KV_HEADS = 4, 2  # of 8 numbers each
METADATA = {
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 12345.0,
} | TOKENIZER
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(matrix, heads):
    """Rows 0 to 7 of a head in the order 0, 4, 1, 5, 2, 6, 3, 7, as GGUF has queries and keys."""
    order = [8 * head + row for head in range(heads) for row in (0, 4, 1, 5, 2, 6, 3, 7)]
    return matrix[order]


@pytest.fixture(scope="module")
def weights():
    """Tensors of a random Llama by their names in GGUF, and by those of transformers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = {name: value.numpy() for name, value in transformers.LlamaForCausalLM(config).state_dict().items()}
    theirs.pop("lm_head.weight")
    tensors = {
        "token_embd.weight": theirs["model.embed_tokens.weight"],
        "output_norm.weight": theirs["model.norm.weight"],
    }
    for layer in range(2):
        for module, name in NAMES.items():
            value = theirs[f"model.layers.{layer}.{module}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name)
            tensors[f"blk.{layer}.{name}.weight"] = interleaved(value, heads) if heads else value
    return tensors, theirs


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights):
    tmp_path = tmp_path_factory.mktemp("gguf")
    convert(write(tmp_path / "tiny.gguf", weights[0], METADATA), tmp_path / "folder")
    return tmp_path / "folder"


def test_float32_weights_are_the_original_ones_with_queries_and_keys_in_their_order(folder, weights):
    values = load_file(folder / "model.safetensors")
    assert values.keys() == weights[1].keys()
    assert [name for name in values if not np.array_equal(values[name], weights[1][name])] == []


def test_rows_of_a_head_by_hand(tmp_path, weights):
    tensors = dict(weights[0])
    rows = np.repeat(np.arange(16, dtype=np.float32)[:, None], 32, axis=1)
    tensors["blk.1.attn_k.weight"] = rows  # row i of the file holds the number i
    convert(write(tmp_path / "rows.gguf", tensors, METADATA), tmp_path / "out")
    kernel = load_file(tmp_path / "out" / "model.safetensors")["model.layers.1.self_attn.k_proj.weight"]
    assert kernel[:, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]


def test_config_and_stop_tokens(folder):
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "model_type": "llama", "vocab_size": len(TOKENS), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 12345.0, "rope_scaling": None,
        "tie_word_embeddings": True, "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32",
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    generation = json.loads((folder / "generation_config.json").read_text())
    # <|endoftext|> is the end of a text wherever it is a control token, although the file names <|im_end|> alone.
    assert generation == {"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 2}


def test_the_tokenizer_of_the_folder(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.hf.convert_ids_to_tokens(tokenizer.encode_prompt("Hello w12")) == ["Hello", "\u0120w", "1", "2"]
    for text in ("Hello w12", " a", "a ", "\n\n\tq", "na\u00efve \u65e5 \U0001f642", "<|im_end|>", "don't", "e\u0301"):
        assert tokenizer.decode(tokenizer.encode_prompt(text)) == text
    assert (tokenizer.prefix, tokenizer.stop_ids, tokenizer.pad_id) == ((), (2, 0), None)
    assert tokenizer.hf("<fact>a")["input_ids"][0] == 3  # defined by its users: one token, and no special one
    assert "<fact>" not in tokenizer.hf.all_special_tokens
    assert tokenizer.hf.apply_chat_template([{"role": "user", "content": "w"}], tokenize=False) == (
        "<|im_start|>user\nw<|im_end|>\n"
    )
    ids = tokenizer.encode_prompt((Message("user", "Hello"),))
    assert [i for i in ids if i < 3] == [1, 2, 1]
    assert ids[ids.index(2) - 1] == TOKENS.index("Hello")


def test_a_begin_of_sequence_token_that_the_file_asks_for(tmp_path, weights):
    path = write(tmp_path / "bos.gguf", weights[0], METADATA | {"tokenizer.ggml.add_bos_token": True})
    convert(path, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.encode_prompt("Hello") == [1, TOKENS.index("Hello")]


@pytest.mark.parametrize(("name", "tolerance"), [("F16", 1e-4), ("Q8_0", 1e-3), ("Q4_1", 1e-2)])
def test_other_precisions_are_near_the_original(tmp_path, weights, name, tolerance):
    convert(write(tmp_path / "q.gguf", weights[0], METADATA, quantisation=Quantisation[name]), tmp_path / "out")
    values = load_file(tmp_path / "out" / "model.safetensors")
    errors = [np.abs(values[key].astype(np.float32) - value).max() for key, value in weights[1].items()]
    assert 0 < max(errors) < tolerance
    assert {str(value.dtype) for value in values.values()} == {"float16" if name == "F16" else "float32"}


def test_another_dtype_a_head_of_its_own_and_biases(tmp_path, weights):
    head = weights[0]["token_embd.weight"] + 1
    biases = {
        f"blk.{layer}.{name}.bias": np.arange(size, dtype=np.float32)
        for layer in range(2)
        for name, size in {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32}.items()
    }
    path = write(tmp_path / "head.gguf", weights[0] | {"output.weight": head} | biases, METADATA)
    convert(path, tmp_path / "out", "--config.dtype=bfloat16")
    values = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(value.dtype) for value in values.values()} == {"bfloat16"}
    assert np.array_equal(values["lm_head.weight"], head.astype(values["lm_head.weight"].dtype))
    assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    assert values["model.layers.0.self_attn.q_proj.bias"][:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert values["model.layers.0.self_attn.v_proj.bias"][:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_llama_3s_scaling_of_rotary_frequencies_is_recognised_by_its_divisors(tmp_path, weights):
    metadata = METADATA | {"llama.rope.freq_base": 500000.0}
    # Wavelengths 2 pi 500000^(i / 4): 6, 167, 4443 and 118143 tokens; the first two are below 8192 / 4, the last is
    # above 8192, and the third is blended: turns 1.844, (1.844 - 1) / 3 = 0.281, 1 / (0.281 + 0.719 / 8) = 2.694.
    divisors = np.array([1.0, 1.0, 2.694, 8.0], np.float32)
    file = GGUF(write(tmp_path / "llama3.gguf", weights[0] | {"rope_freqs.weight": divisors}, metadata))
    assert file.config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    divisors[2] = 3.0
    path = write(tmp_path / "other.gguf", weights[0] | {"rope_freqs.weight": divisors}, metadata)
    with pytest.raises(ValueError, match=r"other\.gguf: rope_freqs\.weight holds another scaling"):
        GGUF(path)


def test_sentence_piece_joins_the_pieces_of_the_highest_score_first(tmp_path, weights):
    pieces = ["a", "b", "c", "\u2581", "bc", "ab", "\u2581a", "\u2581ab"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    metadata = METADATA | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "tokenizer.ggml.scores": [0.0] * 263 + [-1.0, -2.0, -3.0, -4.0],
    }
    for key in ("chat_template", "ggml.padding_token_id"):
        del metadata[f"tokenizer.{key}"]
    grown = weights[0] | {"token_embd.weight": np.zeros((len(tokens), 32), np.float32)}
    _, tokenizer = gguf_tokenizer.open_gguf(str(write(tmp_path / "sp.gguf", grown, metadata)))
    # ids 259 to 266 are the pieces, after the bytes; "bc" is joined before "\u2581a", and no piece joins the two
    assert tokenizer.encode_prompt("abc") == [1, 265, 263]
    assert tokenizer.encode_prompt("c a") == [1, 262, 261, 265]
    assert tokenizer.encode_prompt("\n") == [1, 262, 3 + 10]  # a byte
    assert tokenizer.decode(tokenizer.encode_prompt("abc \u00e9")) == "abc \u00e9"
    assert tokenizer.stop_ids == (2,)


def test_llama_2s_tokenizer_is_had_back_from_its_pieces_and_scores(assets):
    original = json.loads((assets / "tokenizers" / "llama2.json").read_text())
    tokens = sorted(original["model"]["vocab"], key=original["model"]["vocab"].get)
    scores = [0.0 if i < 259 else -float(i - 259) for i in range(len(tokens))]
    scores = [-1e9 if len(t) > 1 and set(t) == {"\u2581"} else s for t, s in zip(tokens, scores, strict=True)]

    class File:
        path, config = "llama2.gguf", {"vocab_size": 32000, "max_position_embeddings": 4096}
        metadata = {  # noqa: RUF012
            "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (32000 - 259)],
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        }  # fmt: skip

        def value(self, key, default=None):
            return self.metadata.get(key, default)

    tokenizer = gguf_tokenizer.read(File())
    merges = json.loads(tokenizer.hf.backend_tokenizer.to_str())["model"]["merges"]
    assert merges == original["model"]["merges"]
    for case in json.loads((assets / "tokenizers" / "llama2_vectors.json").read_text()):
        assert tokenizer.encode_prompt(case["text"]) == [1, *case["ids"]]


def without(key):
    return {name: value for name, value in METADATA.items() if name != key}


REFUSED = {
    "architecture": (
        dict(architecture="falcon"),
        r"='falcon' is not read, only \['gemma3', 'llama', 'qwen2', 'qwen3'\]; give the model's Hugging Face folder",
    ),
    "no_heads": (dict(metadata=without("llama.attention.head_count")), r"lacks the key llama\.attention\.head_count;"),
    "no_tokens": (dict(metadata=without("tokenizer.ggml.tokens")), r"lacks the key tokenizer\.ggml\.tokens; convert"),
    "no_merges": (dict(metadata=without("tokenizer.ggml.merges")), r"lacks the key tokenizer\.ggml\.merges; convert"),
    "words": (dict(metadata=METADATA | {"tokenizer.ggml.pre": "falcon"}), r"pre='falcon' is not implemented, only"),
    "kind": (dict(metadata=METADATA | {"tokenizer.ggml.model": "bert"}), r"model='bert' is not read, only 'gpt2'"),
    "eos": (dict(metadata=METADATA | {"tokenizer.ggml.eos_token_id": 999}), r"eos_token_id=999 is none of the 265"),
    "scaling": (dict(metadata=METADATA | {"llama.rope.scaling.type": "yarn"}), r"scaling of type 'yarn' is not"),
    "window": (dict(metadata=METADATA | {"llama.attention.sliding_window": 8}), r"windows are not implemented"),
    "experts": (dict(metadata=METADATA | {"llama.expert_count": 8}), r"mixtures of experts are not implemented"),
    "part": (dict(metadata=METADATA | {"split.count": 3}), r"is one part of 3: merge them"),
    "layers": (dict(metadata=METADATA | {"llama.block_count": 3}), r"(?s)does not fit.*missing: blk\.2\.attn_norm"),
    "width": (dict(metadata=METADATA | {"llama.feed_forward_length": 65}), r"\[64, 32\], the metadata ask for \[65,"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_with_file_and_remedy_and_nothing_is_written(tmp_path, weights, name):
    changes, message = REFUSED[name]
    path = write(tmp_path / "bad.gguf", weights[0], **({"metadata": METADATA} | changes))
    with pytest.raises(ValueError, match=r"bad\.gguf") as error:
        convert(path, tmp_path / "out")
    assert error.match(message)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.gguf"]


@pytest.mark.parametrize("name", ["empty", "magic", "header", "metadata", "tensors", "numbers", "nan", "pointer"])
def test_damaged_files_are_refused_and_nothing_is_written(tmp_path, weights, name):
    path = tmp_path / "bad.gguf"
    tensors = weights[0]
    if name == "nan":
        tensors = tensors | {"blk.1.attn_v.weight": np.full((16, 32), np.nan, np.float32)}
    if name == "numbers":
        tensors = tensors | {"blk.1.attn_v.weight": np.zeros((16, 32), np.int8)}
    data = write(path, tensors, METADATA).read_bytes()
    cut = {
        "empty": b"",
        "magic": b"PK" + data[2:],
        "header": data[:10],
        "metadata": data[:2000],
        "tensors": data[:-999],
    }
    path.write_bytes(cut.get(name, b"version https://git-lfs" if name == "pointer" else data))
    expected = {
        "empty": r"is empty; download it again",
        "nan": r"blk\.1\.attn_v\.weight holds NaN",
        "numbers": r"blk\.1\.attn_v\.weight is quantised as I8, which",
        "pointer": r"is a git-lfs pointer",
    }.get(name, r"is no complete GGUF file \(.*\); download it again")
    with pytest.raises(ValueError, match=expected):
        convert(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.gguf"]


def test_a_missing_library_and_a_missing_file_are_named(tmp_path, weights, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.gguf; correct the path"):
        GGUF(tmp_path / "none.gguf")
    path = write(tmp_path / "tiny.gguf", weights[0], METADATA)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(ValueError, match=r"tiny\.gguf: GGUF files.*pip install 'lc_jax\[gguf\]'"):
        convert(path, tmp_path / "out")


def test_a_language_model_is_no_reward_model(tmp_path, weights):
    path = write(tmp_path / "tiny.gguf", weights[0], METADATA)
    with pytest.raises(ValueError, match=r"is a language model; --config\.format=sequence_classification"):
        convert(path, tmp_path / "out", "--config.format=sequence_classification")
