"""Families of Llama's descendants against transformers: log-probabilities, packed suffixes, gradients, folders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from lc_jax.data import batches
from lc_jax.inference import generate, score
from lc_jax.inference.prefix import prefix_length
from lc_jax.kernels.attention import PADDING, SHARED_PREFIX
from lc_jax.models import difference, folders, hf, params, registry
from tests import programs
from tests.models.conftest import assert_same, edit_config
from tests.models.families import IDS, OTHERS, PAD, SHAPE, SOME

# What transformers leaves out of files or derives, or what changes nothing.
DERIVED = {"_name_or_path", "transformers_version", "dtype", "max_window_layers", "no_rope_layer_interval",
           "pad_token_id", "architectures", "use_cache", "attention_dropout", "_attn_implementation"}  # fmt: skip


@pytest.fixture(scope="module")
def mesh():
    return programs.mesh_of()


def random_torch_model(name):
    """Biases and norms are random as well."""
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(OTHERS[name](), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=OTHERS)
def pair(request, mesh, tmp_path_factory):
    """A model of transformers, our model of the same weights, and its folder."""
    model = random_torch_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, hf.load(folder, mesh), folder


def only(*names):
    return pytest.mark.parametrize("pair", names, indirect=True)


def rows(number, longest, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, PAD, n).tolist() for n in [longest, *rng.integers(2, longest, number - 1)]]


def torch_logprobs(model, tokens, temperature=1.0):
    """Log-probabilities of the tokens after the first [T - 1]."""
    logits = model(torch.tensor([tokens])).logits[0, :-1] / temperature
    return torch.log_softmax(logits, dim=-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]


# --- folders ---


def test_a_folder_comes_back_bit_for_bit(pair, mesh, tmp_path):
    """Tensors in the files are equal, and both configs mean the same to transformers and to us."""
    _, ours, folder = pair
    hf.save(tmp_path / "model", ours)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "model"))
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.dtype == after[key].dtype
        np.testing.assert_array_equal(value.view(np.uint8), after[key].view(np.uint8), err_msg=key)
    again = transformers.AutoConfig.from_pretrained(tmp_path / "model").to_dict()
    expected = transformers.AutoConfig.from_pretrained(folder).to_dict()
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    for key in expected.keys() - DERIVED:
        if key == "sliding_window" and not raw.get("use_sliding_window", True):
            continue
        if key == "rope_parameters":
            again[key].pop("type", None)  # as released Phi models name it
        assert again[key] == expected[key], key
    assert_same(hf.load(tmp_path / "model", mesh), ours)
    assert not difference.is_difference(folder)


def test_a_reward_model_comes_back(pair, mesh, tmp_path):
    _, _, folder = pair
    model = hf.load(folder, mesh, kind="scalar")
    hf.save(tmp_path / "reward", model)
    assert_same(hf.load(tmp_path / "reward", mesh, kind="scalar"), model)


# --- numbers ---


@only(*SOME, "mistral")
def test_logprobs_at_a_temperature_and_of_left_padded_rows(pair):
    model, ours, _ = pair
    sequences = rows(4, 30)
    padded = batches.pad(sequences, 32, side="left")

    @jax.jit
    def logprobs(tokens, lengths, starts):
        module = ours.bind()
        hidden = module(tokens, lengths, starts=starts)
        return module.logprobs(hidden[:, :-1], tokens[:, 1:], jnp.float32(0.7))[0]

    actual = np.asarray(logprobs(padded.tokens, padded.lengths, padded.starts))
    for row, sequence in enumerate(sequences):
        with torch.no_grad():
            expected = torch_logprobs(model, sequence, 0.7)
        np.testing.assert_allclose(actual[row, 32 - len(sequence) :], expected, atol=1e-4)


@only(*SOME, "mistral")
def test_packed_suffixes_are_sequences_of_their_own(pair):
    """The window of the second and third suffix reaches into the prefix, not into the suffix before them."""
    model, ours, _ = pair
    prefix, suffixes = rows(1, 9)[0], rows(3, 7, seed=2)
    tokens = [*prefix, *(token for suffix in suffixes for token in suffix), 0, 0]
    ids = [SHARED_PREFIX] * len(prefix) + [i for i, suffix in enumerate(suffixes, 1) for _ in suffix] + [PADDING] * 2
    hidden = jax.jit(lambda *args: ours.bind()(args[0], segment_ids=args[1]))(jnp.array([tokens]), jnp.array([ids]))
    logits, first = np.asarray(ours.bind().logits(hidden))[0], len(prefix)
    for suffix in suffixes:
        with torch.no_grad():
            expected = model(torch.tensor([[*prefix, *suffix]])).logits[0]
        np.testing.assert_allclose(logits[: len(prefix)], expected[: len(prefix)], atol=1e-4)
        np.testing.assert_allclose(logits[first : first + len(suffix)], expected[len(prefix) :], atol=1e-4)
        first += len(suffix)


@only(*SOME, "mistral")
def test_generation_and_scores_behind_a_shared_prefix(pair):
    """A prefix of 32 tokens is computed once; log-probabilities are those of the whole sequences."""
    model, ours, _ = pair
    prefix = rows(1, 32)[0]
    prompts = [[*prefix, *rest] for rest in rows(4, 9, seed=3)]
    assert prefix_length(prompts) == 32
    sampling = generate.Sampling(max_new_tokens=12, eos_ids=(2,))
    completions = generate.generate(ours, prompts, sampling, seed=0, batch_size=4)
    texts = [[*prompt, *completion.tokens] for prompt, completion in zip(prompts, completions, strict=True)]
    scores = dict(score.stream_logprobs(ours, texts, batch_size=2))
    for i, completion in enumerate(completions):
        with torch.no_grad():
            expected = torch_logprobs(model, texts[i]).numpy()
        np.testing.assert_allclose(completion.logprobs, expected[len(prompts[i]) - 1 :], atol=1e-4)
        np.testing.assert_allclose(scores[i].logprobs, expected, atol=1e-4)


@only("qwen2", "olmo3", "gemma2", "gemma3", "granite", "phi3")
def test_gradients_are_those_of_torch(pair, mesh):
    """Gradients of the log-probabilities of a row: windows, softcaps, factors, norms, joint projections."""
    model, _, folder = pair
    tokens = rows(1, 40)[0]
    model.zero_grad()
    torch_logprobs(model, tokens).sum().backward()
    ours = hf.load(folder, mesh, remat="full")

    @jax.jit
    def gradient(values):
        def total(values):
            module = ours.with_params(values).bind()
            row = jnp.array([tokens])
            return module.logprobs(module(row)[:, :-1], row[:, 1:], jnp.float32(1.0))[0].sum()

        return jax.grad(total)(values)

    by_key = dict(hf.host_tensors(ours.with_params(gradient(ours.params))))
    for key, parameter in model.named_parameters():
        expected = parameter.grad.numpy()
        np.testing.assert_allclose(by_key[key], expected, atol=1e-4 * max(1.0, np.abs(expected).max()), err_msg=key)


# --- what is missing in config.json, and what is refused ---


@pytest.mark.parametrize("name", registry.FAMILIES)
def test_a_missing_key_means_what_it_means_to_transformers(name):
    """Files that transformers saves have every key, but published ones do not: base of the rope, head size, factors."""
    shape = SHAPE | IDS | dict(num_key_value_heads=2)
    theirs = transformers.AutoConfig.for_model(name, **shape).to_dict()
    assert registry.config_from_hf({"model_type": name} | shape) == registry.config_from_hf(theirs)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen2", dict(layer_types=["chunked_attention"] * 3), "layer_types: 'chunked_attention'"),
        ("qwen2", dict(layer_types=["full_attention"]), "layer_types must name one type for each layer"),
        ("qwen3", dict(num_experts=8), "num_experts=8: mixtures of experts"),
        ("qwen3", dict(sliding_window=None), "sliding_window is missing"),
        ("mistral", dict(layer_types=["full_attention"]), "layer_types="),
        ("olmo2", dict(clip_qkv=8.0), "clip_qkv=8.0"),
        ("olmo3", dict(rope_parameters=dict(rope_type="default")), "rope_parameters must be by"),
        ("smollm3", dict(no_rope_layers=[0, 0, 0]), "no_rope_layers"),
        ("phi3", dict(rope_parameters=dict(rope_type="linear", factor=2.0)), "rope scaling of type 'linear'"),
        ("phi3", dict(num_attention_heads=8, num_key_value_heads=8), "partial_rotary_factor|short_factor has 3"),
        ("gemma2", dict(use_bidirectional_attention=True), "use_bidirectional_attention=True"),
        ("gemma2", dict(hidden_activation="xielu"), "hidden_activation='xielu'"),
        ("gemma3", dict(attn_logit_softcapping=50.0), "attn_logit_softcapping=50.0"),
        ("granite", dict(num_local_experts=32), "num_local_experts=32: mixtures of experts"),
        ("granite", dict(logits_scaling=0), "logits_scaling must be a number above 0"),
    ],
)
def test_what_is_not_implemented_is_refused_by_key_and_value(tmp_path, name, changes, message):
    OTHERS[name]().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()  # never read
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"config\.json: .*({message})"):
        folders.config_of(tmp_path)


def test_longrope_ends_at_its_original_length(mesh):
    config = registry.config_from_hf(OTHERS["phi3"]().to_dict())
    model = registry.initialize(config, jax.random.key(0), mesh)
    with pytest.raises(ValueError, match=r"Rows of 65 tokens: with LongRoPE they end at original_max_position.*=64"):
        model.bind()(jnp.ones((1, 65), jnp.int32))


# --- released models, by shapes alone; the numbers are those of their config.json files ---

SMALL = dict(hidden_act="silu", rms_norm_eps=1e-6)
RELEASED = {
    "mistral-7b-v0.1": (transformers.MistralConfig, 7_241_732_096, dict(
        vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=32768, sliding_window=4096, rms_norm_eps=1e-5)),
    "qwen2.5-0.5b": (transformers.Qwen2Config, 494_032_768, dict(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True)),
    "qwen3-0.6b": (transformers.Qwen3Config, 596_049_920, dict(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=True)),
    "olmo-2-1b": (transformers.Olmo2Config, 1_484_916_736, dict(
        vocab_size=100352, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=16,
        num_key_value_heads=16, max_position_embeddings=4096)),
    "olmo-3-7b": (transformers.Olmo3Config, 7_298_011_136, dict(
        vocab_size=100278, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=65536, sliding_window=4096)),
    "smollm3-3b": (transformers.SmolLM3Config, 3_075_098_624, dict(
        vocab_size=128256, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=4, max_position_embeddings=65536)),
    "phi-4-mini": (transformers.Phi3Config, 3_836_021_760, dict(
        vocab_size=200064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, num_attention_heads=24,
        num_key_value_heads=8, max_position_embeddings=131072, tie_word_embeddings=True, pad_token_id=0)),
    "gemma-2-2b": (transformers.Gemma2Config, 2_614_341_888, dict(
        vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, max_position_embeddings=8192)),
    "gemma-3-270m": (transformers.Gemma3TextConfig, 268_098_176, dict(
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, max_position_embeddings=32768, sliding_window=512)),
    "granite-3.1-2b": (transformers.GraniteConfig, 2_533_531_648, dict(
        vocab_size=49155, hidden_size=2048, intermediate_size=8192, num_hidden_layers=40, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, tie_word_embeddings=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_keys_and_shapes_of_released_models(name):
    kind, count, numbers = RELEASED[name]
    config = kind(**numbers)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    abstract = registry.abstract_model(registry.config_from_hf(config.to_dict()))
    specs = params.tensor_specs(abstract, "float32")
    assert {spec.key: spec.shape for spec in specs} == shapes
    assert len(specs) == len(shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract.params)) == count
