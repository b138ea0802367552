"""One whole PPO step on fixed responses: losses, gradients and parameters as the published code computes them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lc_jax import parallel
from lc_jax.inference.generate import Completion
from lc_jax.models import hf, registry
from lc_jax.models.registry import named_leaves
from lc_jax.models.transformer import trainable
from lc_jax.rl import advantage, batch, rollout, update
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.loss import LossSettings
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from tests import recorded

PAD = 127


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The recorded policy, reference and value model as checkpoint folders."""
    root, config = tmp_path_factory.mktemp("ppo"), recorded.llama_config(128, 64, 112)
    policy = recorded.llama_weights(config, seed=1)
    head, reference = recorded.value_head_and_reference(policy)
    return {
        "policy": recorded.save_model(root / "policy", config, policy),
        "reference": recorded.save_model(root / "reference", config, reference),
        "critic": recorded.save_model(root / "critic", config, recorded.llama_weights(config, seed=51), head),
    }


def episodes_of(inputs):
    """Left-padded queries and right-padded responses, side by side without a gap."""
    counts = inputs["query_attn_masks"].sum(axis=1)
    responses, width = inputs["responses"].astype(np.int32), inputs["queries"].shape[1]
    lengths = (responses != PAD).sum(axis=1).astype(np.int32)
    tokens = np.full((len(counts), width + responses.shape[1]), PAD, np.int32)
    for row, count in enumerate(counts):
        tokens[row, :count] = inputs["queries"][row, width - count :]
        tokens[row, count : count + responses.shape[1]] = responses[row]
    counts, zeros = counts.astype(np.int32), np.zeros(responses.shape, np.float32)
    numbers = dict.fromkeys(batch.PER_POSITION, zeros)
    return batch.Episodes(tokens, responses, counts, lengths, tokens, counts, **numbers, pad_to_max=True)


def published_step(case, inputs, folders, mesh, microbatches):
    """Runs the recorded case; returns the episodes with their advantages, the parameters after, and the statistics."""
    args = case["args"]
    precision = {"param_dtype": "float32", "compute_dtype": "float32"}
    policy, reference = (hf.load(folders[name], mesh, **precision) for name in ("policy", "reference"))
    critic = hf.load(folders["critic"], mesh, kind="scalar", **precision)
    actor_critic = ActorCritic(policy, critic)
    settings = OptimizerSettings(
        case["learning_rate"], 100, 0, "constant", *case["betas"], case["adam_epsilon"], case["weight_decay"],
        case["max_grad_norm"],
    )  # fmt: skip
    tx = make_optimizer(settings, trainable(actor_critic.params()))
    episodes = episodes_of(inputs)
    episodes = rollout.score_rollout(
        policy, reference, critic, episodes, temperature=args["temperature"], groups=episodes.groups(8)
    )
    estimator = advantage.AdvantageSettings(
        gamma=args["gamma"], lam=args["lam"], whiten_rewards=args["whiten_rewards"], clamp_kl=True, masked=False
    )
    episodes, _ = advantage.estimate(episodes, inputs["scores"], args["kl_coef"], estimator)
    loss = LossSettings(args["cliprange"], args["cliprange_value"], args["vf_coef"], masked=False)
    sizes = update.UpdateSettings(case["noptepochs"], 8, 8 // microbatches, args["temperature"], loss)
    state = states.create(actor_critic.params(), tx)
    state, stats = update.update(state, actor_critic.with_params(None), episodes, tx=tx, settings=sizes, seed=0)
    return episodes, state.params, stats


def hf_names(params, folders, mesh):
    """Parameters by their recorded names."""
    policy, critic = hf.load(folders["policy"], mesh), hf.load(folders["critic"], mesh, kind="scalar")
    arrays = {f"policy.base_model.{k}": v for k, v in hf.host_tensors(policy.with_params(params["policy"]))}
    for key, value in hf.host_tensors(critic.with_params(params["critic"])):
        name = key.replace("backbone_model.", "base_model.").replace("reward_head.", "value_head.")
        arrays[f"value_model.{name}"] = value
    return arrays


@pytest.mark.parametrize("number", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 6))])
def test_published_ppo_step(golden, folders, number):
    published = recorded.load(golden / "ppo_step.json")["fixed_scores"]
    case, inputs = published["steps"][number], published["inputs"]
    mesh = parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        episodes, params, stats = published_step(
            case, inputs, folders, mesh, microbatches=4 if "micro" in case["note"] else 1
        )
        arrays = hf_names(params, folders, mesh)
    for name, norm in case["param_delta_norm"].items():
        before = load_before(folders, name)
        # Adam turns a gradient of nothing but rounding error into a step of any sign: 1e-3 of the norm is that noise.
        np.testing.assert_allclose(np.linalg.norm(arrays[name] - before), norm, rtol=5e-3, atol=1e-6, err_msg=name)
    norms = case["grad_total_norm_before_clip"]
    np.testing.assert_allclose([s["grad_norm"] for s in stats][:1], norms[:1], rtol=1e-5)
    if case["noptepochs"] == 1:  # micro-batches of one size: their statistics' means are the minibatch's
        parts = [part["stats"] for part in case["microbatches"]]
        means = {name: np.mean([part[name] for part in parts]) for name in parts[0]}
        means["loss"] = means.pop("loss/total")
        assert len(set(stats[0]) & set(means)) > 8
        for name in set(stats[0]) & set(means):
            np.testing.assert_allclose(stats[0][name], means[name], rtol=1e-4, atol=1e-5, err_msg=name)
    if number == 0:
        expected = recorded.tensors("a1_rollouts")
        for name, value in {
            "logprobs": episodes.old_logprobs,
            "ref_logprobs": episodes.ref_logprobs,
            "values": episodes.old_values,
        }.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(episodes.advantages, expected["advantages"], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(episodes.returns, expected["returns"], rtol=1e-4, atol=2e-5)
        for name, expected in recorded.tensors("a1_params_after").items():
            actual = recorded.sample(arrays[name.removeprefix("after.")])
            np.testing.assert_allclose(actual, expected, atol=0.02 * case["learning_rate"], err_msg=name)


@pytest.mark.slow
def test_micro_batches_share_a_program():
    mesh = parallel.make_mesh(1, 4, 2)
    settings = OptimizerSettings(1e-4, 100, 0, "constant", 0.9, 0.999, 1e-8, 0.0, 1.0)
    sizes = update.UpdateSettings(1, 16, 4, 1.0, LossSettings())
    compiled = []

    def listen(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            compiled.append(about.get("fun_name", ""))

    with jax.set_mesh(mesh):
        policy = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), mesh)
        critic = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(1), mesh, "scalar")
        actor_critic = ActorCritic(policy, critic)
        tx = make_optimizer(settings, trainable(actor_critic.params()))
        completions = [Completion([5, 6, 7], [-1.0] * 3, False)] * 16
        episodes = batch.pack([[1, 2, 3, 4]] * 16, completions)
        groups = episodes.groups(16)
        episodes = rollout.score_rollout(policy, policy, critic, episodes, temperature=1.0, groups=groups)
        episodes = dataclasses.replace(episodes, advantages=np.ones_like(episodes.old_logprobs))
        state = states.create(actor_critic.params(), tx)
        update.add_gradients.clear_cache()
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            _, (stats,) = update.update(state, actor_critic.with_params(None), episodes, tx=tx, settings=sizes, seed=0)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
    assert sum("add_gradients" in name for name in compiled) == 2, compiled  # of the policy and of the critic
    assert stats["padding"] == pytest.approx(8 / 7 - 1)  # four and three tokens in eight positions


def load_before(folders, name):
    """The parameter before the step, by its recorded name."""
    model, _, key = name.partition(".")
    if model == "policy":
        return load_file(folders["policy"] / "model.safetensors")[key.removeprefix("base_model.")]
    key = key.replace("base_model.", "backbone_model.").replace("value_head.", "reward_head.")
    return load_file(folders["critic"] / "model.safetensors")[key]


@pytest.mark.slow
def test_gradients(golden, folders):
    """The gradient of the published loss, tensor by tensor."""
    published = recorded.load(golden / "ppo_step.json")["fixed_scores"]
    case, args = published["steps"][0], published["steps"][0]["args"]
    mesh = parallel.make_mesh(1, 1, 8) if jax.device_count() == 8 else parallel.make_mesh()
    with jax.set_mesh(mesh):
        episodes, _, _ = published_step(case, published["inputs"], folders, mesh, 1)
        policy, critic = hf.load(folders["policy"], mesh), hf.load(folders["critic"], mesh, kind="scalar")
        actor_critic = ActorCritic(policy, critic)
        loss = LossSettings(args["cliprange"], args["cliprange_value"], args["vf_coef"], masked=False)
        count = jnp.float32(episodes.old_logprobs.size)
        temperature, grads = jnp.float32(args["temperature"]), {}
        for name, model in actor_critic.models().items():
            zeros = jax.tree.map(jnp.zeros_like, model.params)
            grads[name], _ = update.add_gradients(
                zeros, model, episodes, count, temperature, objective=update.OBJECTIVES[name], settings=loss
            )
        arrays = hf_names(grads, folders, mesh)
    for name, expected in recorded.tensors("a1_grads_before_clip").items():
        actual = recorded.sample(arrays[name.removeprefix("grad.")])
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-5, err_msg=name)
    assert len(named_leaves(actor_critic.params())) > 20
