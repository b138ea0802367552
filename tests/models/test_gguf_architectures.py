"""GGUF files of Qwen 2, Qwen 3 and Gemma 3: the converted folder is the original model, in transformers and here."""

import json

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from lc_jax.data import gguf_tokenizer
from lc_jax.models import hf
from lc_jax.models.gguf import GGUF
from lc_jax.parallel import make_mesh
from tests.models import families
from tests.models.gguf_files import TOKENIZER, TOKENS, convert, write

GEMMA = dict(
    num_hidden_layers=6,
    layer_types=["sliding_attention"] * 5 + ["full_attention"],
    rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=10000.0),
        full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
    ),
    query_pre_attn_scalar=16,
)
MODELS = {
    "qwen2": lambda: families.qwen2(
        vocab_size=len(TOKENS), num_key_value_heads=2, use_sliding_window=False, tie_word_embeddings=False
    ),
    "qwen3": lambda: families.qwen3(
        vocab_size=len(TOKENS), use_sliding_window=False, layer_types=["full_attention"] * 3
    ),
    "gemma3": lambda: families.gemma3(vocab_size=len(TOKENS), **GEMMA),
}
METADATA = {
    "qwen2": {"qwen2.rope.freq_base": 1e6},
    "qwen3": {"qwen3.rope.freq_base": 1e6, "qwen3.attention.key_length": 16, "qwen3.attention.value_length": 16},
    "gemma3": {
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
        "gemma3.attention.key_length": 16,
        "gemma3.attention.value_length": 16,
        "gemma3.attention.sliding_window": 5,
    },
}


def original(name):
    """A random model of transformers, with norms and biases that are not those of a fresh one."""
    torch.manual_seed(0)
    config = MODELS[name]()
    if name != "gemma3":
        config.rope_parameters = dict(rope_type="default", rope_theta=1e6)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, value in network.named_parameters():
            if value.ndim == 1:
                value.uniform_(-0.5, 0.5) if name == "gemma3" or "bias" in key else value.uniform_(0.5, 1.5)
    return network


def contents(name, network):
    """Tensors and metadata of the model's GGUF file; the names are the library's own."""
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    config, names = network.config, gguf.get_tensor_name_map(architecture, network.config.num_hidden_layers)
    tensors = {
        names.get_name(key, (".weight", ".bias")): value.numpy() + (name == "gemma3" and "norm" in key)
        for key, value in network.state_dict().items()
        if not (key == "lm_head.weight" and config.tie_word_embeddings)
    }
    metadata = {
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    return tensors, metadata | METADATA[name] | TOKENIZER


@pytest.mark.parametrize("name", MODELS)
def test_the_folder_is_the_original_model(tmp_path, name):
    network = original(name)
    convert(write(tmp_path / "tiny.gguf", *contents(name, network), name), tmp_path / "folder")
    theirs = {key: value.numpy() for key, value in network.state_dict().items()}
    if network.config.tie_word_embeddings:
        theirs.pop("lm_head.weight")
    values = load_file(tmp_path / "folder" / "model.safetensors")
    assert values.keys() == theirs.keys()
    errors = {key: np.abs(values[key] - value).max() for key, value in theirs.items()}
    assert max(errors.values()) <= (1e-7 if name == "gemma3" else 0)  # 1 + w is rounded, and no other number

    tokens = torch.arange(3, 53)[None]
    with torch.no_grad():
        expected = network(tokens).logits.numpy()
        folder = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32).eval()
        assert np.abs(folder(tokens).logits.numpy() - expected).max() < 1e-5
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        model = hf.load(tmp_path / "folder", mesh, param_dtype="float32", compute_dtype="float32").bind()
        logits = model.logits(model(np.repeat(tokens.numpy().astype(np.int32), 8, axis=0)))
    assert np.abs(np.asarray(logits) - expected).max() < 1e-4


EXPECTED = {
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"], "head_dim": 8, "rope_theta": 1e6, "rope_scaling": None,
        "use_sliding_window": False, "sliding_window": None, "tie_word_embeddings": False,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "head_dim": 16, "rope_theta": 1e6, "attention_bias": False,
        "layer_types": ["full_attention"] * 3,
    },
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 16, "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0, "sliding_window": 5, "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"], "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        },
        "final_logit_softcapping": None, "tie_word_embeddings": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_config(tmp_path, name):
    convert(write(tmp_path / "tiny.gguf", *contents(name, original(name)), name), tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert {key: config[key] for key in EXPECTED[name]} == EXPECTED[name]


def test_rows_of_heads_stay_and_norms_lose_their_one(tmp_path):
    tensors, metadata = contents("gemma3", original("gemma3"))
    tensors["blk.1.attn_q.weight"] = np.repeat(np.arange(64, dtype=np.float32)[:, None], 32, axis=1)
    tensors["blk.1.attn_q_norm.weight"] = np.full(16, 1.25, np.float32)
    tensors["output_norm.weight"] = np.full(32, 0.5, np.float32)
    convert(write(tmp_path / "rows.gguf", tensors, metadata, "gemma3"), tmp_path / "out")
    values = load_file(tmp_path / "out" / "model.safetensors")
    assert values["model.layers.1.self_attn.q_proj.weight"][:, 0].tolist() == list(range(64))
    assert set(values["model.layers.1.self_attn.q_norm.weight"]) == {0.25}
    assert set(values["model.norm.weight"]) == {-0.5}


def test_gemma_3s_largest_size_has_a_query_scale_of_its_own(tmp_path):
    """Its 62 layers have heads of 128 numbers, but queries are scaled by (5376 / 32)^-0.5; here by (32 / 4)^-0.5."""
    network = original("gemma3")
    tensors, metadata = contents("gemma3", network)
    for layer in range(6, 62):
        tensors |= {key.replace(".5.", f".{layer}."): value for key, value in tensors.items() if ".5." in key}
    path = write(tmp_path / "large.gguf", tensors, metadata | {"gemma3.block_count": 62}, "gemma3")
    assert GGUF(path).config["query_pre_attn_scalar"] == 8


def test_keys_that_newer_files_have(tmp_path):
    tensors, metadata = contents("gemma3", original("gemma3"))
    newer = {
        "gemma3.attention.sliding_window_pattern": 2,
        "gemma3.rope.freq_base_swa": 5000.0,
        "gemma3.final_logit_softcapping": 30.0,
        "gemma3.rope.scaling.type": "none",
    }
    file = GGUF(write(tmp_path / "newer.gguf", tensors, metadata | newer, "gemma3"))
    expected = {
        "sliding_window_pattern": 2, "rope_local_base_freq": 5000.0, "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": None, "rope_scaling": None,
    }  # fmt: skip
    assert {key: file.config[key] for key in expected} == expected


REFUSED = {
    "window": ("qwen2", {"qwen2.attention.sliding_window": 4096}, r"qwen2\.attention\.sliding_window: windows are not"),
    "experts": ("qwen3", {"qwen3.expert_count": 8}, r"qwen3\.expert_count: mixtures of experts"),
    "no_window": ("gemma3", {"gemma3.attention.sliding_window": 0}, r"sliding_window is missing"),
    "softcap": ("gemma3", {"gemma3.attn_logit_softcapping": 50.0}, r"attn_logit_softcapping=50\.0 is not implemented"),
    "pattern": ("gemma3", {"gemma3.attention.sliding_window_pattern": [True, False]}, r"differs between layers"),
    "yarn": ("qwen2", {"qwen2.rope.scaling.type": "yarn"}, r"rope scaling of type 'yarn' is not implemented"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_architecture_lacks_is_refused_by_its_key(tmp_path, name):
    architecture, changes, message = REFUSED[name]
    tensors, metadata = contents(architecture, original(architecture))
    path = write(tmp_path / "bad.gguf", tensors, metadata | changes, architecture)
    with pytest.raises(ValueError, match=rf"bad\.gguf: .*{message}"):
        GGUF(path)


def test_qwens_words_have_single_digits_and_composed_letters(tmp_path):
    tensors, metadata = contents("qwen2", original("qwen2"))
    path = write(tmp_path / "tiny.gguf", tensors, metadata | {"tokenizer.ggml.pre": "qwen2"}, "qwen2")
    _, tokenizer = gguf_tokenizer.open_gguf(str(path))
    words = tokenizer.hf.backend_tokenizer.pre_tokenizer.pre_tokenize_str("I'LL pay 123\n\n  now!")
    assert [word for word, _ in words] == [
        "I",
        "'LL",
        "\u0120pay",
        "\u0120",
        "1",
        "2",
        "3",
        "\u010a\u010a",
        "\u0120",
        "\u0120now",
        "!",
    ]
    assert tokenizer.encode_prompt("e\u0301") == tokenizer.encode_prompt("\u00e9")
    assert tokenizer.stop_ids == (2, 0)


def test_gemmas_line_breaks_and_runs_of_spaces_are_tokens(tmp_path):
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>"]
    runs = ["\n", "\n\n", "  ", "   ", "<b>"]
    pieces = ["a", "b", "\u2581", "\u2581a", "ab"]
    tokens = [*special, *runs, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    tensors, metadata = contents("gemma3", original("gemma3"))
    tensors["token_embd.weight"] = np.zeros((len(tokens), 32), np.float32)
    metadata |= {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*[3] * 5, *[4] * 5, *[6] * 256, *[1] * 5],
        "tokenizer.ggml.scores": [*[-1000.0] * 10, *[0.0] * 256, -3.0, -4.0, -5.0, -1.0, -2.0],
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }  # fmt: skip
    _, tokenizer = gguf_tokenizer.open_gguf(str(write(tmp_path / "gemma.gguf", tensors, metadata, "gemma3")))
    a, b, space, space_a, ab = range(266, 271)
    assert tokenizer.encode_prompt("ab a") == [2, ab, space_a]
    assert tokenizer.encode_prompt("   a\n\n\nb") == [2, 8, a, 6, 5, b]
    assert tokenizer.encode_prompt("<b>a ") == [2, 9, a, space]
    assert tokenizer.encode_prompt("<eos>")[1] != 1  # text of the data is no special token
    assert tokenizer.decode(tokenizer.encode_prompt("a   b\n <b>\u00e9")) == "a   b\n <b>\u00e9"
    assert (tokenizer.prefix, tokenizer.stop_ids, tokenizer.pad_id) == ((2,), (1, 4), 0)
