"""`verify` finds faults planted into what models compute, and none in healthy models, mostly in bfloat16."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from lc_jax import parallel
from lc_jax.data import examples
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate, score, writing
from lc_jax.kernels.attention import RowMask
from lc_jax.models import hf, transformer
from lc_jax.models.transformer import CausalLM
from lc_jax.rl import reward_model, rollout, verify, verify_models, verify_scalar
from lc_jax.tasks import verify as task
from tests import programs
from tests.rl.test_verify import TEXTS, failed
from tests.test_configs import config_of

LABELS = [0.0, 0.2, 0.9, 1.0]


def stale_weights_in_the_sampler(patch):
    first = []

    def stale(model):
        first.append(jax.tree.map(jnp.copy, model))
        return first[0]

    patch.setattr(generate, "for_decoding", stale)


def padding_attended_while_decoding(patch):
    read = transformer.decode_attention
    patch.setattr(
        transformer, "decode_attention", lambda q, k, v, mask, *a: read(q, k, v, RowMask(0 * mask.starts), *a)
    )


def padding_attended_while_scoring(patch):
    attend = transformer.attention
    patch.setattr(transformer, "attention", lambda q, k, v, mask, **s: attend(q, k, v, RowMask(), **s))


def another_temperature_in_scoring(patch):
    scored = CausalLM.logprobs
    patch.setattr(CausalLM, "logprobs", lambda self, hidden, targets, t: scored(self, hidden, targets, t / 0.7))


def loss_mask_shifted_by_one(patch):
    loss_fn = verify_models.language_model.loss_fn

    def shifted(model, batch):
        return loss_fn(model, {**batch, "first_targets": batch["first_targets"] + 1})

    patch.setattr(verify_models.language_model, "loss_fn", shifted)


def reward_head_read_at_another_position(patch):
    def before_the_last(model, tokens, lengths):
        values = model.bind()(tokens, lengths)
        return jnp.take_along_axis(values, jnp.maximum(lengths[:, None] - 2, 0), axis=1)[:, 0]

    patch.setattr(score, "sequence_rewards", jax.jit(before_the_last))


def value_read_at_another_position(patch):
    def shifted(critic, episodes):
        return values(critic, dataclasses.replace(episodes, critic_prompt_lengths=episodes.critic_prompt_lengths + 1))

    values = rollout.critic_values
    patch.setattr(rollout, "critic_values", shifted)


def boundary_of_prompt_and_target_one_late(patch):
    encode = Tokenizer.encode_pair
    patch.setattr(Tokenizer, "encode_pair", lambda self, *args: (encode(self, *args)[0], encode(self, *args)[1] + 1))


def boundary_of_prompt_and_target_one_early(patch):
    encode = Tokenizer.encode_pair
    patch.setattr(Tokenizer, "encode_pair", lambda self, *args: (encode(self, *args)[0], encode(self, *args)[1] - 1))


MODELS = {
    stale_weights_in_the_sampler: "new weights in sampler and scorer",
    padding_attended_while_decoding: "sampled = scored log-probabilities",
    padding_attended_while_scoring: "tokens in padding change nothing",
    another_temperature_in_scoring: "scored = log softmax(logits / temperature)",
    boundary_of_prompt_and_target_one_late: "the loss covers exactly the target",
    boundary_of_prompt_and_target_one_early: "the loss covers exactly the target",
    loss_mask_shifted_by_one: "the loss covers exactly the target",
    reward_head_read_at_another_position: "critic: the head's position",
    value_read_at_another_position: "critic: the head's position",
}


def results_of_models(names, dtype="bfloat16"):
    mesh, tokenizer = programs.mesh_of(), load_tokenizer(base.LLAMA)
    prompts = [tokenizer.encode_prompt(text) for text in TEXTS * 2]
    sampling = generate.Sampling(16, 0.7, eos_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id)
    jax.clear_caches()
    with jax.set_mesh(mesh):
        subject = verify_models.Subject(base.LLAMA, {"compute_dtype": dtype}, tokenizer, prompts, sampling, mesh)
        critic = hf.load(base.LLAMA, mesh, kind="scalar", fresh_head=True, compute_dtype=dtype)
        trial = verify_models.Trial.of(subject)
        texts = [verify_models.Example(str(i), text, " It is so.") for i, text in enumerate(TEXTS)]
        pairs = [(example, examples.encode_sft(tokenizer, example, 512)) for example in texts]
        checks = {
            "new weights in sampler and scorer": lambda: verify_models.new_weights_sampled(trial),
            "sampled = scored log-probabilities": lambda: verify_models.sampling(trial),
            "tokens in padding change nothing": lambda: verify_models.padding(trial.policy, prompts),
            "scored = log softmax(logits / temperature)": lambda: verify_models.temperature(trial),
            "the loss covers exactly the target": lambda: verify_models.target_loss(
                trial.policy, tokenizer, pairs, trial.noise
            ),
            "critic: the head's position": lambda: verify_scalar.head_position(critic, prompts),
        }
        results = [verify.Result.of(name, check) for name, check in checks.items() if name in names]
    jax.clear_caches()
    print(verify.render(results))
    return failed(results)


@pytest.mark.slow
@pytest.mark.parametrize("fault", MODELS)
def test_a_fault_of_models_is_found(fault, monkeypatch):
    with monkeypatch.context() as patch:
        fault(patch)
        failures = results_of_models({MODELS[fault]})
    assert failures == {MODELS[fault]}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_ratio_of_a_trained_model_is_1_in_float32_and_within_its_rounding_in_bfloat16(dtype):
    mesh, tokenizer = programs.mesh_of(), load_tokenizer(base.LLAMA)
    prompts = [tokenizer.encode_prompt(text) for text in TEXTS * 4]
    sampling = writing.Decoding(32, 0.7, 0, 1).sampling(tokenizer)
    with jax.set_mesh(mesh):
        subject = verify_models.Subject(base.LLAMA, {"compute_dtype": dtype}, tokenizer, prompts, sampling, mesh)
        ratio = verify_models.ratio(verify_models.Trial.of(subject))
    print(dtype, ratio)
    if dtype == "float32":
        assert ratio.value < 1e-5
    assert ratio.value <= ratio.limit
    assert ratio.limit < 0.03


@pytest.mark.slow
def test_a_policy_that_one_update_hardly_changes_gets_more_of_them(monkeypatch):
    """A model that is nearly certain of its samples changes as little; stale weights are detected all the same."""
    monkeypatch.setattr(verify_models, "RATE", 2e-6)
    name = "new weights in sampler and scorer"
    assert results_of_models({name}, "float32") == set()
    stale_weights_in_the_sampler(monkeypatch)
    assert results_of_models({name}, "float32") == {name}


def test_a_target_that_does_not_end_or_is_not_the_row_is_found():
    tokenizer = load_tokenizer(base.LLAMA)
    example = verify_models.Example("7", TEXTS[0], " It is so.")
    row = examples.encode_sft(tokenizer, example, 512)
    verify_models._check_target(tokenizer, example, row)
    for start in (row.num_source - 1, row.num_source + 1):
        with pytest.raises(ValueError, match=r"example '7': the target is ' ?It is so\.', the loss covers"):
            verify_models._check_target(tokenizer, example, dataclasses.replace(row, num_source=start))
    with pytest.raises(ValueError, match=r"ends with token 5, not with"):
        verify_models._check_target(tokenizer, example, dataclasses.replace(row, tokens=(*row.tokens[:-1], 5)))


def labels_the_other_way_round(patch):
    loss = reward_model.soft_label_loss
    patch.setattr(reward_model, "soft_label_loss", lambda logits, labels, mask: loss(logits, 1 - labels, mask))


def padding_rows_counted(patch):
    loss = reward_model.soft_label_loss
    patch.setattr(reward_model, "soft_label_loss", lambda logits, labels, mask: loss(logits, labels, mask | True))


def head_that_is_not_saved(patch):
    save = hf.save
    patch.setattr(hf, "save", lambda folder, model, **settings: save(
        folder, model.with_params(jax.tree.map(lambda x: 0.9 * x, model.params)), **settings))  # fmt: skip


REWARD_MODEL = {
    labels_the_other_way_round: "reward model: the loss is the cross-entropy of the labels",
    padding_rows_counted: "reward model: the loss is the cross-entropy of the labels",
    head_that_is_not_saved: "reward model: saved and loaded again, to the bit",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, *REWARD_MODEL])
def test_a_fault_of_a_reward_model_is_found(fault, monkeypatch):
    mesh, tokenizer = programs.mesh_of(), load_tokenizer(base.LLAMA)
    rows = [
        verify_models.Example(str(i), text, label=label)
        for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    jax.clear_caches()
    with jax.set_mesh(mesh), monkeypatch.context() as patch:
        model = hf.load(base.LLAMA, mesh, kind="scalar", fresh_head=True, compute_dtype="bfloat16")
        if fault:
            fault(patch)
        results = verify_scalar.trained(model, tokenizer, rows, mesh)
    jax.clear_caches()
    print(verify.render(results))
    assert failed(results) == ({REWARD_MODEL[fault]} if fault else set())


def test_a_model_of_nan_fails_every_check_of_its_numbers():
    mesh = programs.mesh_of()
    with jax.set_mesh(mesh):
        for kind in ("causal", "scalar"):
            model = hf.load(base.LLAMA, mesh, kind=kind, fresh_head=kind == "scalar")
            broken = model.with_params(jax.tree.map(lambda x: x * jnp.nan, model.params))
            assert np.isnan(verify_models.padding(broken, [[3, 9, 4], [11, 2]]).value)
        assert np.isnan(verify_scalar.head_position(broken, [[3, 9, 4], [11, 2]]).value)


@pytest.mark.slow
def test_nothing_is_found_in_healthy_models(monkeypatch, capsys):
    """PPO in bfloat16, whose models are the miniature's base models."""
    checked, config = config_of("ppo", "mini"), config_of("verify", "mini")
    checked.policy = checked.critic = checked.reader.forecaster = base.LLAMA
    checked.reader.extractor, checked.ppo.baseline = "", "critic"
    checked.precision.compute_dtype = "bfloat16"
    config.of = "configs/ppo.py:mini"
    monkeypatch.setattr(task, "load_of", lambda _: checked)
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        task.check(config)
        task.run(config, mesh)
    out = capsys.readouterr().out
    print(out)
    assert "FAILED" not in out
    assert re.search(r"^ok +1 device = all devices", out, re.MULTILINE)
