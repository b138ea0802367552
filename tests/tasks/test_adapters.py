"""Trainings of adapters as runs: SFT, a reward model and PPO on one backbone; resumed; merged by convert."""

import importlib
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

from configs import base
from lc_jax import main, parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.models import hf
from lc_jax.models.config import Lora
from lc_jax.models.params import model_leaves
from lc_jax.models.registry import named_leaves
from lc_jax.rl import kl, verify_scalar
from lc_jax.rl.settings import PPOSettings
from lc_jax.rl.step import step
from lc_jax.tasks import ppo as tasks_ppo
from lc_jax.training import loop
from tests.models.test_adapters import with_random_adapter
from tests.tasks.test_own_data import PLAIN, write
from tests.tasks.test_ppo import SIZES
from tests.test_configs import config_of

LORA = {"lora__rank": 4, "lora__alpha": 8.0}
WEIGHTS = "adapter_model.safetensors"


def run(config, **settings):
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in settings.items()]
    main.run_task(["main", f"--config=configs/{config}.py:mini", "--config.compilation_cache=", *flags])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    demonstrations = [{"prompt": f"Which city {i}?", "completion": f" Paris {i}."} for i in range(12)]
    return {"data__rows__source": write(folder / "mine.jsonl", demonstrations), "fit__save_every": 1}


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run("sft", model=PLAIN, output=folder / "run", **rows, **LORA)
    return folder / "run"


def test_a_run_leaves_the_adapter_its_checkpoints_hold_nothing_else_and_convert_merges_it(trained, tmp_path):
    model, config = trained / "model", json.loads((trained / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(PLAIN)
    assert not (model / "model.safetensors").exists()
    assert (model / "tokenizer_config.json").exists()
    adapter = load_file(model / WEIGHTS)
    assert any(values.any() for key, values in adapter.items() if "lora_B" in key)
    tree = ocp.PyTreeCheckpointHandler().metadata((trained / "checkpoints" / "3" / "default").resolve()).tree
    assert len(jax.tree.leaves(tree["params"])) == len(adapter) / 2  # both layers are in one array
    assert {path[-2] for path, _ in named_leaves(tree["params"])} == {"lora_a", "lora_b"}
    record = json.loads((trained / "run.json").read_text())  # a command that the run refused leaves an entry
    refused = {**record["runs"][-1], "config": record["runs"][-1]["config"] | {"lora.alpha": 3.0}}
    (trained / "run.json").write_text(json.dumps({"runs": [*record["runs"], refused]}))
    run("convert", source=trained / "checkpoints" / "3", destination=tmp_path / "step")
    for name in (WEIGHTS, "adapter_config.json"):
        assert (tmp_path / "step" / name).read_bytes() == (model / name).read_bytes()
    with pytest.raises(ValueError, match=r"--config.source=\S+ is an adapter, of which no .*lc_jax convert --source="):
        run("convert", source=model, base=PLAIN, make_difference=True, destination=tmp_path / "difference")
    run("convert", source=model, destination=tmp_path / "merged")
    before, merged = load_file(PLAIN / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    key = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{key}.lora_{part}.weight"] for part in "AB")
    np.testing.assert_allclose(merged[f"{key}.weight"], before[f"{key}.weight"] + 2.0 * b @ a, atol=1e-6)
    np.testing.assert_array_equal(merged["model.norm.weight"], before["model.norm.weight"])


def test_a_run_that_is_cut_resumes_bit_for_bit(trained, rows, tmp_path, monkeypatch):
    def stop(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        if step == 2:
            raise KeyboardInterrupt

    save = loop.Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(loop.Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            run("sft", model=PLAIN, output=tmp_path / "cut", **rows, **LORA)
    assert not (tmp_path / "cut" / "model").exists()
    run("sft", model=PLAIN, output=tmp_path / "cut", **rows, **LORA)
    assert (tmp_path / "cut" / "model" / WEIGHTS).read_bytes() == (trained / "model" / WEIGHTS).read_bytes()
    with pytest.raises(ValueError, match=r"lora\.rank was '4', is '2'"):
        run("sft", model=PLAIN, output=tmp_path / "cut", **rows, **LORA | {"lora__rank": 2})


def test_an_adapter_is_trained_on_with_the_same_settings_only(trained, rows, tmp_path):
    run("sft", model=trained / "model", output=tmp_path / "more", **rows, **LORA)
    config = json.loads((tmp_path / "more" / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(PLAIN)
    with pytest.raises(ValueError, match=r"rank 4, alpha 8 for .*merge it first"):
        run("sft", model=trained / "model", output=tmp_path / "other", **rows, lora__rank=2)
    with pytest.raises(ValueError, match=r"--config\.lora\.dropout=0\.1: dropout of adapters is not implemented"):
        run("sft", model=PLAIN, output=tmp_path / "other", **rows, **LORA, lora__dropout=0.1)


def test_a_reward_model_is_trained_as_an_adapter_and_scores_as_the_merged_one(tmp_path):
    rows = [
        {"question": f"Which {i}?", "generated_paragraph": f"Paris {i}.", "answer": "Paris", "label": i % 2}
        for i in range(12)
    ]
    source = {"data__rows__source": write(tmp_path / "labels.jsonl", rows)}
    run("reward_model", model=PLAIN, output=tmp_path / "run", **source, **LORA)
    run("convert", source=tmp_path / "run" / "model", destination=tmp_path / "merged")
    run("convert", source=tmp_path / "run" / "model", destination=tmp_path / "other", format="sequence_classification")
    (step,) = (tmp_path / "run" / "checkpoints").glob("[0-9]*")
    with pytest.raises(ValueError, match=r"is a step of a training of adapters.*--config.format=hf first"):
        run("convert", source=step, destination=tmp_path / "labels", format="sequence_classification")
    texts = write(tmp_path / "texts.jsonl", [{"text": "Paris 1."}, {"text": "Rome"}])
    scores = []
    for model in ("run/model", "merged", "other"):
        run("score", model=tmp_path / model, input=texts, output=tmp_path / f"{len(scores)}.jsonl", kind="reward")
        scores.append([json.loads(line) for line in (tmp_path / f"{len(scores)}.jsonl").read_text().splitlines()])
    numbers = [[row["reward"] for row in rows] for rows in scores]
    assert numbers[0][0] != 0.0
    mesh, lora = parallel.make_mesh(), Lora(4, 8.0, int8=True)  # verify reads an export as it was trained
    model = with_random_adapter(hf.load(PLAIN, mesh, kind="scalar", lora=lora))
    assert verify_scalar.exported(model, load_tokenizer(PLAIN), [[5, 6, 7], [8, 9]], mesh).value == 0.0
    np.testing.assert_allclose(numbers, [numbers[0]] * 3, atol=1e-5)


@pytest.fixture(scope="module")
def roles(tmp_path_factory):
    """A policy, which also extracts, and a forecaster: two adapters of the miniature's Llama."""
    folder, mesh = tmp_path_factory.mktemp("roles"), parallel.make_mesh()
    for name, kind in (("policy", "causal"), ("forecaster", "scalar")):
        model = hf.load(base.LLAMA, mesh, kind=kind, lora=Lora(4, 8.0))
        hf.save(folder / name, with_random_adapter(model, len(name)), tokenizer=base.LLAMA)
    return {name: folder / name for name in ("policy", "forecaster")}


def ppo_config(roles, output, **ppo):
    config = config_of("ppo", "mini")
    config.policy = config.reader.extractor = str(roles["policy"])
    config.critic = config.reader.forecaster = str(roles["forecaster"])
    config.reader.batch_size, config.lora.rank, config.lora.alpha = 16, 4, 8.0
    config.ppo.update(SIZES | {"baseline": "critic", "num_samples": 1} | ppo)
    config.optimizer.warmup_steps, config.optimizer.learning_rate = 0, 1e-2  # the first update already changes much
    config.output = str(output)
    return config


@pytest.mark.slow
def test_five_roles_share_one_backbone_and_the_sampler_follows_the_updates(roles, tmp_path):
    config = ppo_config(roles, tmp_path)
    mesh = parallel.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        trainer, state = tasks_ppo.build(config, mesh, PPOSettings(**config.ppo))
        models = trainer.structure.with_params(state.params).models()
        models |= {"reference": trainer.reference, "forecaster": trainer.reader.forecaster.model}
        models |= {"extractor": trainer.reader.extractor.part.model}
        kernels = {name: dict(model_leaves(model)) for name, model in models.items()}
        for name, leaves in kernels.items():
            path = ("layers", "q", "kernel")
            path = path if name not in ("critic", "forecaster") else ("backbone_model", *path)
            assert leaves[path] is kernels["policy"]["layers", "q", "kernel"], name
        start = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params["policy"])]
        for ours, theirs in zip(start, jax.tree.leaves(trainer.reference.params), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        sampling = generate.Sampling(16)

        def samples(model):
            return generate.generate(model, [[5, 6, 7]] * 8, sampling, seed=0, batch_size=8)

        before = samples(trainer.policy(state))
        questions, _ = tasks_ppo.load_train_and_validation(
            config.questions.to_dict(), config.validation.to_dict(), 4, config.seed
        )
        controller = kl.make(coefficient=0.1, **config.kl)
        done = step(trainer, state, controller, questions[:16], 0)
        assert done.stats["kl"] == pytest.approx(0.0, abs=1e-4)  # the policy is still the reference
        done = step(trainer, done.state, controller, questions[:16], 1)
        assert abs(done.stats["kl"]) > 1e-4
        after = samples(trainer.policy(done.state))
        assert [c.logprobs for c in before] != [c.logprobs for c in after]
        for ours, theirs in zip(start, jax.tree.leaves(trainer.reference.params), strict=True):
            np.testing.assert_array_equal(ours, theirs)  # the updates changed the policy's adapter, not this one


@pytest.mark.slow
def test_ppo_of_adapters_is_a_run_that_resumes(roles, tmp_path, monkeypatch):
    def go(output):
        config = ppo_config(roles, output)
        mesh = parallel.make_mesh(**config.mesh)
        with jax.set_mesh(mesh):
            importlib.import_module("lc_jax.tasks.ppo").run(config, mesh)

    go(tmp_path / "whole")
    save = tasks_ppo.Checkpoints.save

    def stop(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tasks_ppo.Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "cut")
    go(tmp_path / "cut")
    whole, cut = (load_file(tmp_path / name / "model" / WEIGHTS) for name in ("whole", "cut"))
    for key, values in load_file(roles["policy"] / WEIGHTS).items():
        np.testing.assert_array_equal(whole[key], cut[key])
        assert not np.array_equal(whole[key], values)
    policy = hf.load(tmp_path / "whole" / "model", parallel.make_mesh())  # a checkpoint for everything that follows
    assert policy.frozen is None
