"""The memory planner against what XLA says of the same programs once it has compiled them."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from configs import base
from configs import ppo as configs_ppo
from lc_jax import activations, memory, parallel
from lc_jax.models import registry
from lc_jax.models.config import Lora, training_fields
from lc_jax.tasks import ppo as tasks_ppo
from lc_jax.training.optimizer import KINDS
from tests import programs

# In bfloat16, XLA's CPU compiler converts some operands to float32 (kernels/matmul.py): so float32 here.
OPTIMIZED = True  # the figures are of programs as users compile them
FLOAT32 = {"param_dtype": "float32", "compute_dtype": "float32"}
SHALLOW = (base.LLAMA, FLOAT32 | {"remat": "none"})
SHALLOW_NEOX = (base.GPT_NEOX, FLOAT32 | {"remat": "none"})
LARGE = ("llama-2-7b", FLOAT32 | {"remat": "full"})
ERROR = 0.10  # of a phase's total


@pytest.fixture
def deep(tmp_path):
    """A folder with the miniature's sizes, but of as many layers as need a loop."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "hidden_size": 256,
        "intermediate_size": 704, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()  # never read
    return str(tmp_path)


OTHERS = {  # windows, four norms, softcaps and GELU; norms of heads
    "gemma2": dict(model_type="gemma2", sliding_window=64, tie_word_embeddings=False),
    "qwen3": dict(model_type="qwen3"),
}


def bytes_by_xla(traced):
    """Returns the bytes that a program allocates on a device beyond its arguments."""
    m = traced.lower().compile().memory_analysis()
    return m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


def optimizer(kind="adamw"):
    return {
        "learning_rate": 1e-5, "schedule": "constant", "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0,
        "clip_norm": 1.0, "kind": kind,
    }  # fmt: skip


def training(model, precision, batch, micro, length):
    """Settings of supervised training."""
    fit, data = {"batch_size": batch, "microbatch_size": micro}, {"max_length": length}
    return {"model": model, "precision": precision, "data": data, "fit": fit, "optimizer": optimizer()}


def check_training(shape, kind, devices, sizes):
    mesh = programs.mesh_of() if devices == 1 else parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        (phase,) = memory.plan_training(training(*shape, *sizes), mesh, kind).phases
        traced = programs.train_step(memory.abstract_model(shape[0], mesh, kind, **shape[1]), kind, *sizes)
        assert phase.total == pytest.approx(phase.parameters + phase.moments + bytes_by_xla(traced), rel=ERROR)


@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_supervised_step(kind, deep):
    check_training((deep, FLOAT32 | {"remat": "full"}), kind, 1, (32, 16, 128))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "remat"), [("gemma2", "none"), ("qwen3", "full")])
def test_supervised_step_of_other_families(family, remat, deep):
    path = Path(deep) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | OTHERS[family] | {"head_dim": 32}))
    check_training((deep, FLOAT32 | {"remat": remat}), "causal", 1, (32, 32, 256))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "remat"), [("causal", "none"), ("causal", "full"), ("scalar", "dots")])
def test_supervised_step_of_every_remat(kind, remat, deep):
    check_training((deep, FLOAT32 | {"remat": remat}), kind, 1, (32, 32, 256))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "devices", "sizes"),
    [
        (SHALLOW, 1, (32, 32, 128)),
        (SHALLOW_NEOX, 1, (32, 32, 128)),
        (LARGE, 1, (32, 8, 1024)),
        (LARGE, 8, (32, 8, 1024)),
    ],
)
def test_supervised_step_of_other_models(shape, devices, sizes):
    check_training(shape, "causal", devices, sizes)


ADAPTERS = {"rank": 8, "alpha": 16.0, "targets": "", "dropout": 0.0, "int8": False}


@pytest.mark.parametrize("int8", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("remat", ["full", pytest.param("none", marks=pytest.mark.slow)])
def test_supervised_step_of_adapters(remat, int8, deep):
    """The frozen parameters are arguments of the program, neither copied nor given gradients."""
    mesh, precision, sizes = programs.mesh_of(), FLOAT32 | {"remat": remat}, (32, 16, 128)
    settings = training(deep, precision, *sizes) | {"lora": ADAPTERS | {"int8": int8}}
    with jax.set_mesh(mesh):
        (phase,) = memory.plan_training(settings, mesh).phases
        model = memory.abstract_model(deep, mesh, **training_fields(settings))
        whole = memory.abstract_model(deep, mesh, **precision)
        traced = programs.train_step(model, "causal", *sizes)
        assert phase.total == pytest.approx(phase.parameters + phase.moments + bytes_by_xla(traced), rel=ERROR)
    assert phase.gradients < 0.2 * memory.shard_bytes(whole)
    if int8:
        assert phase.parameters < 0.6 * memory.shard_bytes(whole)


def test_only_what_is_shared_with_the_policy_is_counted_once():
    def model(base, rows, kind="causal"):
        config = registry.from_preset("tiny-llama", lora=Lora(2, 4.0, base=base))
        return registry.abstract_model(dataclasses.replace(config, vocab_size=rows), kind)

    policy = model("a", 256)
    whole, table = memory.shard_bytes(policy.frozen), 256 * 32 * 4  # bytes of all, and of the embedding
    assert memory.frozen_bytes(policy, [policy, model("a", 256, "scalar")]) == whole
    longer = 2 * (table + 32 * 4)  # embedding and head with a row more, in each of two models
    assert memory.frozen_bytes(policy, [model("a", 257), model("a", 257, "scalar")]) == whole + 2 * longer
    assert memory.frozen_bytes(policy, [model("b", 256), model("b", 256)]) == 3 * whole


def ppo(model, precision, sizes):
    """Settings of PPO whose models are all of one architecture."""
    settings = {
        "query_length": sizes["query"], "response_length": sizes["response"], "decode_batch_size": sizes["decode"],
        "microbatch_size": sizes["micro"], "minibatch_size": 4 * sizes["micro"],
        "rollout_batch_size": 4 * sizes["micro"], "baseline": "critic", "frozen_on_host": False,
    }  # fmt: skip
    reader = {
        "extractor": model, "forecaster": model, "max_length": sizes["width"], "max_new_tokens": 24,
        "batch_size": sizes["reader"],
    }  # fmt: skip
    models = {"policy": model, "critic": model, "reader": reader}
    return models | {"precision": precision, "ppo": settings, "optimizer": optimizer()}


SMALL = dict(query=32, response=64, decode=256, micro=64, width=160, reader=64)


@pytest.mark.slow
def test_every_phase_of_ppo():
    sizes = dict(query=128, response=300, decode=128, micro=32, width=1024, reader=64)
    check_ppo(LARGE[0], sizes, ADAPTERS | {"rank": 0})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "int8"),
    [
        (dict(query=128, response=300, decode=64, micro=8, width=1024, reader=16), False),
        (dict(query=128, response=300, decode=32, micro=8, width=1024, reader=8), True),
    ],
)
def test_every_phase_of_ppo_with_adapters_of_one_base(sizes, int8):
    check_ppo(LARGE[0], sizes, ADAPTERS | {"rank": 16, "int8": int8})


def check_ppo(model, sizes, lora):
    mesh, precision = programs.mesh_of(), LARGE[1]
    with jax.set_mesh(mesh):
        settings = ppo(model, precision, sizes) | {"lora": lora}
        plan = memory.plan_ppo(settings, mesh)
        fields = training_fields(settings)
        causal, scalar = (memory.abstract_model(model, mesh, kind, **fields) for kind in ("causal", "scalar"))
        length, response = sizes["query"] + sizes["response"], sizes["response"]
        traced = {
            "generate": programs.generation(causal, sizes["decode"], sizes["query"], response),
            "extract": programs.generation(causal, sizes["reader"], sizes["width"], 24),
            "forecast": programs.forecast(scalar, sizes["reader"], sizes["width"], sizes["width"] // 4),
            "logprobs": programs.logprobs(causal, causal, scalar, sizes["micro"], length, response),
            **programs.ppo_updates(causal, scalar, sizes["micro"], length, response),
        }
        assert [phase.name for phase in plan.phases] == list(traced)
        totals = {phase.name: phase.total for phase in plan.phases}
        actual = {phase.name: phase.state + bytes_by_xla(traced[phase.name]) for phase in plan.phases}
    assert totals == pytest.approx(actual, rel=ERROR)


def test_the_rounding_noise_takes_16_episodes_of_each_device():
    one, eight = parallel.abstract_mesh(1), parallel.abstract_mesh(8)
    assert [activations.noise_rows(count, one) for count in (8, 16, 64)] == [8, 16, 16]
    assert [activations.noise_rows(count, eight) for count in (8, 64, 256)] == [8, 64, 128]


def test_the_rounding_noise_of_bfloat16_is_a_phase_of_its_own(deep):
    """The phase needs all models, and what scoring 16 episodes in float32 does; a float32 policy has none."""
    mesh = parallel.abstract_mesh(1)
    low = memory.plan_ppo(ppo(deep, FLOAT32 | {"compute_dtype": "bfloat16", "remat": "none"}, SMALL), mesh)
    exact = memory.plan_ppo(ppo(deep, FLOAT32 | {"remat": "none"}, SMALL | {"micro": 16}), mesh)
    phases, of_16 = ({phase.name: phase for phase in plan.phases} for plan in (low, exact))
    assert phases["rounding noise"].parameters == phases["logprobs"].parameters
    assert phases["rounding noise"].activations == of_16["logprobs"].activations
    assert set(phases) - set(of_16) == {"rounding noise"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_optimizer_step_allocates_little_beyond_its_arguments(kind):
    name, precision = LARGE
    precision = precision | {"param_dtype": "float32" if kind == "adamw" else "bfloat16"}
    mesh = programs.mesh_of()
    settings = ppo(name, precision, dict(query=8, response=8, decode=1, micro=1, width=16, reader=1))
    settings["optimizer"] = optimizer(kind)
    phase = memory.plan_ppo(settings, mesh).phases[-1]
    with jax.set_mesh(mesh):
        models = [memory.abstract_model(name, mesh, k, **precision) for k in ("causal", "scalar")]
        updates = programs.ppo_updates(*models, 1, 16, 8, programs.OptimizerSettings.from_ratio(100, **optimizer(kind)))
        work = bytes_by_xla(updates["optimizer step"])
    assert work < phase.activations < 0.11 * phase.state


def test_open_sizes_are_the_largest_that_fit(deep):
    mesh = parallel.abstract_mesh(1)

    def plan(limit):
        with activations.for_devices_of(limit):
            return memory.plan_training(training(deep, FLOAT32 | {"remat": "none"}, 32, 0, 64), mesh)

    whole = plan(1e12)
    assert (whole.microbatch_size, whole.fits) == (32, True)
    fitting = plan(0.6 * whole.phases[0].total)
    assert 1 < fitting.microbatch_size < 32
    assert fitting.fits
    nothing = plan(1e6)
    assert (nothing.microbatch_size, nothing.fits) == (1, False)
    assert "optimizer.kind" in str(nothing)  # parameters and moments alone are too large


def test_a_plan_leaves_its_settings_alone():
    config = configs_ppo.get_config()
    config.policy = config.critic = config.reader.extractor = config.reader.forecaster = base.LLAMA
    config.ppo.decode_batch_size = config.ppo.microbatch_size = 0
    before = config.to_dict()
    plan = tasks_ppo.planned(config, parallel.abstract_mesh(1))
    assert config.to_dict() == before
    assert plan.decode_batch_size >= plan.microbatch_size > 0


@pytest.mark.slow
def test_ppo_with_five_7b_models_fits_one_gpu_of_141_gb():
    """The README's settings with XLA_PYTHON_CLIENT_MEM_FRACTION=0.94 on an H200, of 139 GiB; all models of 7B."""
    config = configs_ppo.get_config()
    config.policy = config.critic = config.reader.extractor = config.reader.forecaster = LARGE[0]
    config.optimizer.kind, config.precision.param_dtype = "adamw_int8", "bfloat16"
    config.ppo.frozen_on_host, config.ppo.decode_batch_size, config.ppo.microbatch_size = True, 0, 0
    config.reader.batch_size = 32
    with activations.for_devices_of(0.94 * 139 * 2**30):
        plan = tasks_ppo.planned(config, parallel.abstract_mesh(1))
    assert plan.fits
    assert plan.decode_batch_size >= 64
    assert plan.microbatch_size >= 32
