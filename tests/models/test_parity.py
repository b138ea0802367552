"""All families against transformers on random tiny models, and against numbers recorded from the published code."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference import generate, score
from lc_jax.kernels.logprobs import token_logprobs
from lc_jax.models import folders, hf
from lc_jax.models.heads import RewardHead
from lc_jax.models.transformer import Model
from tests.models.families import LLAMA_AND_NEOX, OTHERS, PAD, SOME
from tests.recorded import load

CONFIGS = LLAMA_AND_NEOX | OTHERS


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same weights twice."""

    torch: transformers.PreTrainedModel
    ours: Model
    folder: str


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh()


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, mesh, tmp_path_factory):
    """A random model of transformers, saved by it and loaded by us; biases and norms are random as well."""
    torch.manual_seed(len(request.param))
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param](), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return Pair(model, hf.load(folder, mesh), str(folder))


@jax.jit
def hidden_and_logits(model: Model, tokens, lengths=None, starts=None):
    module = model.bind()
    hidden = module(tokens, lengths, starts=starts)
    return hidden, module.logits(hidden)


def theirs(model, tokens, lengths, starts):
    """Last hidden state and logits by transformers, positions counted from each row's first real token."""
    columns = np.arange(tokens.shape[1])
    mask = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])
    positions = np.where(mask, columns - starts[:, None], 1)
    with torch.no_grad():
        out = model(
            torch.tensor(tokens, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            position_ids=torch.tensor(positions),
            output_hidden_states=True,
        )
    return out.hidden_states[-1].numpy(), out.logits.numpy(), mask


def ragged(number, longest, seed=0):
    rng = np.random.default_rng(seed)
    lengths = [longest, 1, *rng.integers(2, longest, number - 2)]
    return [rng.integers(3, PAD, n).tolist() for n in lengths]


@pytest.mark.parametrize("side", ["right", pytest.param("left", marks=pytest.mark.slow)])
def test_hidden_states_and_logits(pair, side):
    padded = batches.pad(ragged(5, 40), 44, pad_id=PAD, side=side)
    hidden, logits = hidden_and_logits(pair.ours, padded.tokens, padded.lengths, padded.starts)
    expected_hidden, expected_logits, real = theirs(pair.torch, padded.tokens, padded.lengths, padded.starts)
    np.testing.assert_allclose(np.asarray(hidden)[real], expected_hidden[real], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(np.asarray(logits)[real], expected_logits[real], rtol=1e-5, atol=2e-5)


def test_without_lengths_every_token_is_real(pair):
    tokens = np.array([row for row in ragged(4, 12) if len(row) == 12], np.int32)
    hidden, _ = hidden_and_logits(pair.ours, tokens)
    expected, _, _ = theirs(pair.torch, tokens, np.full(len(tokens), 12), np.zeros(len(tokens), np.int32))
    np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=2e-5)


def test_saved_model_opens_in_transformers(pair, tmp_path):
    """Our folder gives transformers the same logits, and its generation config the same end of sequence."""
    hf.save(tmp_path / "model", pair.ours)
    back = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert type(back) is type(pair.torch)
    padded = batches.pad(ragged(4, 20), 20, pad_id=PAD)
    _, logits, real = theirs(back, padded.tokens, padded.lengths, padded.starts)
    _, expected, _ = theirs(pair.torch, padded.tokens, padded.lengths, padded.starts)
    np.testing.assert_allclose(logits[real], expected[real], atol=1e-6)
    assert back.generation_config.eos_token_id == pair.torch.generation_config.eos_token_id


def test_config_survives_the_round_trip(pair, tmp_path):
    hf.save(tmp_path / "model", pair.ours)
    assert folders.config_of(tmp_path / "model")[0] == folders.config_of(pair.folder)[0] == pair.ours.config


@pytest.mark.parametrize(
    "pair",
    [
        name if name in ("llama_gqa", "neox_parallel", *SOME) else pytest.param(name, marks=pytest.mark.slow)
        for name in CONFIGS
    ],
    indirect=True,
)
def test_greedy_generation_token_for_token(pair):
    prompts = ragged(6, 14, seed=1)
    length, eos = 24, pair.ours.config.eos_ids
    padded = batches.pad(prompts, 14, pad_id=PAD, side="left")
    with torch.no_grad():
        out = pair.torch.generate(
            torch.tensor(padded.tokens, dtype=torch.long),
            attention_mask=torch.tensor(padded.tokens != PAD, dtype=torch.long),
            do_sample=False,
            max_new_tokens=length,
            pad_token_id=PAD,
            suppress_tokens=[PAD],
        )
    sampling = generate.Sampling(max_new_tokens=length, temperature=0.0, eos_ids=eos, pad_id=PAD)
    completions = generate.generate(pair.ours, prompts, sampling, seed=0, batch_size=4)
    for completion, row in zip(completions, out[:, 14:].tolist(), strict=True):
        expected = [t for t in row if t != PAD]
        assert completion.tokens == expected
        assert completion.finished == (expected[-1] in eos)


# --- recorded from the published code ---

RECORDED = ["llama_mha", "llama_gqa", "neox_r025_par", "neox_r025_seq", "neox_r100_seq", "neox_r100_seq_sharded"]


def layout_of(mask):
    """Lengths and starts of rows whose mask is one block."""
    return mask.sum(1).astype(np.int32), mask.argmax(1).astype(np.int32)


@pytest.fixture(scope="module")
def recorded(recordings):
    """The folder of recorded models."""
    return recordings / "models"


def goldens(folder, name, file):
    path = folder / name.removesuffix("_sharded") / f"{file}.safetensors"
    return load_file(path) if path.exists() else None


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_model_outputs(recorded, mesh, name, side):
    model = hf.load(recorded / name, mesh)
    tensors = {k.removeprefix(f"{side}."): v for k, v in goldens(recorded, name, "goldens").items() if side in k}
    tokens, valid = tensors["input_ids"], tensors["valid"] == 1
    hidden, logits = hidden_and_logits(model, tokens, *layout_of(tensors["attention_mask"]))
    tolerance = dict(rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(np.asarray(hidden)[valid], tensors["hidden_2"][valid], **tolerance)
    np.testing.assert_allclose(np.asarray(logits)[valid], tensors["logits"][valid], **tolerance)
    head = model.bind().head_matrix()
    logprobs, _ = token_logprobs(hidden[:, :-1], head, jnp.asarray(tokens[:, 1:]), jnp.float32(1.0))
    _, entropies = token_logprobs(hidden, head, jnp.asarray(tokens), jnp.float32(1.0))
    pairs = valid[:, :-1] & valid[:, 1:]
    np.testing.assert_allclose(np.asarray(logprobs)[pairs], tensors["logprobs_next"][pairs], **tolerance)
    np.testing.assert_allclose(np.asarray(entropies)[valid], tensors["entropies"][valid], **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RECORDED if not n.endswith("_sharded")])
def test_recorded_greedy_tokens(recorded, mesh, name):
    """With no pad id set: the published code draws `[PAD]` like any other token, and some recorded rows hold it."""
    tensors = goldens(recorded, name, "greedy")
    settings = load(recorded / "models.json")["models"][name]["greedy"]
    rows = zip(tensors["queries"], tensors["query_attn_masks"] == 1, strict=True)
    prompts = [row[real].tolist() for row, real in rows]
    sampling = generate.Sampling(settings["max_new_tokens"], temperature=0.0, eos_ids=(settings["eos_token_id"],))
    out = generate.generate(hf.load(recorded / name, mesh), prompts, sampling, seed=0, batch_size=5)
    pad = settings["pad_token_id"]
    assert [sum(t != pad for t in c.tokens) for c in out] == settings["response_lengths"]
    for completion, response in zip(out, tensors["greedy_responses"], strict=True):
        assert completion.tokens == response[: len(completion.tokens)].tolist()
        assert np.all(response[len(completion.tokens) :] == pad)


@pytest.mark.parametrize("case", ["llama_mha_t0.7", "llama_mha_t1.0", "llama_gqa_t0.7", "llama_gqa_t1.0"])
def test_recorded_policy_and_value_outputs(recorded, mesh, case):
    """Responses to left-padded queries: log-probs and entropies at a temperature, values by a second backbone."""
    name, temperature = case.split("_t")
    tensors = goldens(recorded, name, f"rl_t{temperature}")
    tokens = np.concatenate([tensors["queries"], tensors["responses"]], axis=1)
    real, width = tensors["predicting_position_is_real"] == 1, tensors["queries"].shape[1]
    pads = np.concatenate([tensors["query_attn_masks"] == 1, tensors["responses"] != 127], axis=1)
    before = slice(width - 1, tokens.shape[1] - 1)  # the positions that predict the response

    policy = hf.load(recorded / name, mesh)
    hidden, _ = hidden_and_logits(policy, tokens, *layout_of(pads))
    logprobs, entropies = token_logprobs(
        hidden[:, before], policy.bind().head_matrix(), jnp.asarray(tensors["responses"]), jnp.float32(temperature)
    )
    tolerance = dict(rtol=1e-5, atol=2e-5)
    predicted = real & (tensors["responses"] != 127)  # the log-prob of a pad is recorded as 0
    np.testing.assert_allclose(np.asarray(logprobs)[predicted], tensors["logprobs"][predicted], **tolerance)
    np.testing.assert_allclose(np.asarray(entropies)[real], tensors["entropies"][real], **tolerance)

    critic = hf.load(recorded / f"{name}_value_backbone", mesh)
    head = RewardHead(critic.config)
    head.weight[...], head.bias[...] = tensors["value_head.weight"], tensors["value_head.bias"]
    hidden, _ = hidden_and_logits(critic, tokens, *layout_of(pads))
    np.testing.assert_allclose(np.asarray(head(hidden))[:, before][real], tensors["values"][real], **tolerance)


def test_a_fresh_value_model_says_zero(recorded, mesh):
    tensors = goldens(recorded, "llama_mha", "rl_t1.0")
    model = hf.load(recorded / "llama_mha_value_backbone", mesh, kind="scalar")
    values = model.bind()(jnp.asarray(tensors["queries"]))
    np.testing.assert_array_equal(values, 0.0)
    np.testing.assert_array_equal(tensors["values_zero_head"], 0.0)


def test_recorded_rewards(recorded, mesh):
    """Left-padded as recorded, and the same sequences right-padded: the reward is at the last real token."""
    tensors = load_file(recorded / "reward_llama_mha" / "goldens.safetensors")
    model = hf.load(recorded / "reward_llama_mha", mesh, kind="scalar")
    tokens, mask = tensors["left.input_ids"], tensors["left.attention_mask"] == 1
    lengths, starts = layout_of(mask)
    values = model.bind()(tokens, lengths, starts=starts)[:, -1]
    np.testing.assert_allclose(values, tensors["left.rewards"], rtol=1e-5, atol=2e-5)
    sequences = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    actual = score.group_rewards(model, [sequences], batch_size=4)
    np.testing.assert_allclose(actual[0], tensors["left.rewards"], rtol=1e-5, atol=2e-5)


def test_the_recorded_configs_name_their_features(recorded):
    """The models are built from the settings of the recorded folders."""
    for name, parallel_residual, rotary_dim in (("neox_r025_par", True, 4), ("neox_r100_seq", False, 16)):
        config, kind = folders.config_of(recorded / name)
        raw = json.loads((recorded / name / "config.json").read_text())
        assert kind == "causal"
        assert config.parallel_residual == parallel_residual == raw["use_parallel_residual"]
        assert config.rotary_dim == rotary_dim
