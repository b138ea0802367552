"""Needs of stages planned for absent devices: memory with advice, disk, hours and requests."""

import dataclasses
import importlib
import json

import jax
import pytest

from lc_jax import parallel, settings
from lc_jax.activations import device_bytes
from lc_jax.planning import disk, hours, remedies, stages, work
from lc_jax.planning.devices import FRACTION, Devices, kind_of
from lc_jax.planning.models import Models
from lc_jax.planning.requests import Bill
from lc_jax.preflight import Problems
from tests.test_configs import config_of

BASE = "--config.model=llama-2-7b"


@pytest.fixture(autouse=True)
def fraction(monkeypatch):
    monkeypatch.setenv(FRACTION, ".94")


def make(*lines, profile="", path):
    """Stages of lines (name, result, flags...)."""
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return stages.load(path, profile)


def paper(path, profile):
    """One stage of each kind of the paper's."""
    run = (
        "--config.policy=o/sft/model",
        "--config.critic=o/forecast/model",
        "--config.reader.forecaster=o/forecast/model",
    )
    return make(
        ("LC SFT", "o/sft/model", "--config=configs/sft_lc.py", BASE, "--config.output=o/sft"),
        ("ForecastProbs", "o/forecast/model", "--config=configs/forecast_probs.py", "--config.model=o/sft/model"),
        ("LC RL", "o/rl/model", "--config=configs/ppo.py", *run, "--config.output=o/rl"),
        ("select", "o/rl/selected", "--config=configs/evaluate_qa.py", "--config.model=o/rl/model",
         "--config.data=TriviaQA validation", "--config.annotator.name=anthropic/claude-haiku-4-5"),
        ("QA", "o/qa/result.json", "--config=configs/evaluate_qa.py:bioasq", "--config.model=o/rl/selected",
         "--config.annotator.name=anthropic/claude-haiku-4-5", "--config.strategy=8-shot"),
        profile=profile, path=path,
    )  # fmt: skip


def planned(config):
    return getattr(importlib.import_module(f"lc_jax.tasks.{config.task}"), "planned", None)


def test_devices_have_names():
    devices = Devices.parse("8xA100")
    assert (devices.kind, devices.count, devices.limit) == ("a100", 8, 0.94 * 80e9)
    assert Devices.parse("4xv5p").limit == 95e9  # of a TPU arrays may take all
    assert Devices.choose("", "1xh200").kind == "h200"
    assert Devices.choose("4xv5p", "1xh200").kind == "v5p"
    assert Devices.choose("", "mine.flags") == Devices.here()
    for name in ("a100", "0xa100", "8xx", "8xp100"):
        with pytest.raises(Problems, match=f"--devices={name}: give NUMBERxKIND, such as 8xa100; kinds are a100, "):
            Devices.parse(name)
    here = Devices.here()
    assert here.count == jax.device_count()
    assert here.limit == device_bytes()


@pytest.mark.parametrize(
    ("device_kind", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("TPU v5 lite", "v5e"),
        ("TPU v4", "v4"),
        ("cpu", "cpu"),
    ],
)
def test_devices_are_known_by_what_jax_calls_them(device_kind, kind):
    assert kind_of(device_kind) == kind


def test_a_model_that_is_not_made_yet_has_the_shape_of_what_it_is_made_from(tmp_path):
    shapes = Models(paper(tmp_path / "stages", ""))
    assert shapes.shape_of("o/rl/selected") == shapes.shape_of("o/forecast/model") == "llama-2-7b"
    assert shapes.shape_of("togethercomputer/RedPajama-INCITE-Base-3B-v1") == "redpajama-incite-3b"
    assert shapes.shape_of("tatsu-lab/linguistic-calibration-extract-answers") == "redpajama-incite-3b"
    assert shapes.shape_of("meta-llama/Llama-2-13b-hf") == "llama-2-13b"
    assert Models([], {"who/what": "tiny-llama"}).shape_of("who/what") == "tiny-llama"
    assert shapes.num_parameters("llama-2-7b") == pytest.approx(6.738e9, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["8xa100", "1xh200"])
def test_every_stage_fits_the_devices_of_its_profile(name, tmp_path):
    every, devices = paper(tmp_path / "stages", name), Devices.parse(name)
    shapes = Models(every)
    for stage in every:
        use = remedies.measure(shapes.with_shapes(stage.config), devices, planned(stage.config))
        assert 0.02 * use.limit < use.peak <= use.limit, (stage.name, use)


def check_advice(stage, config, devices, path):
    """Follows what is advised for a stage, and checks that it fits then. Returns the advice."""
    use = remedies.measure(config, devices, planned(config))
    if use.advice.startswith("--"):
        flags = (stage.flags[0], *use.advice.split())
        following = make(("again", "x", *flags), path=path)[0].config
        names = [flag.partition("=")[0].removeprefix("--config.") for flag in flags[1:]]
        values = dict(settings.flat(following))
        changed = remedies.with_settings(config, {name: values[name] for name in names})
        assert not use.fits
        assert remedies.measure(changed, devices, planned(config)).fits
    elif use.advice:
        count = int(use.advice.partition("x")[0])
        assert devices.count < count
        assert remedies.measure(config, dataclasses.replace(devices, count=count), planned(config)).fits
    else:
        assert use.fits
    return use.advice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "advice"),
    [
        ("ForecastProbs", "1xh200", "--config.fit.microbatch_size=0 --config.precision.param_dtype=bfloat16 "
         "--config.optimizer.kind=adamw_int8_master"),
        ("LC RL", "1xh200", "--config.ppo.microbatch_size=0 --config.ppo.decode_batch_size=0 "
         "--config.ppo.frozen_on_host=true --config.precision.param_dtype=bfloat16 "
         "--config.optimizer.kind=adamw_int8 --config.reader.batch_size=32"),
        ("QA", "1xh100", "--config.batch_size=32"),
    ],
)  # fmt: skip
def test_what_is_advised_for_7b_makes_it_fit(name, devices, advice, tmp_path):
    every = paper(tmp_path / "stages", "")
    (stage,) = [stage for stage in every if stage.name == name]
    config = Models(every).with_shapes(stage.config)
    assert check_advice(stage, config, Devices.parse(devices), tmp_path / "again") == advice


def test_what_is_advised_makes_it_fit(tmp_path):
    sizes = ("--config.model=tiny-llama", "--config.fit.batch_size=2", "--config.data.max_length=16")
    (stage,) = make(("SFT", "m", "--config=configs/sft_lc.py", *sizes), path=tmp_path / "stages")
    whole = remedies.measure(stage.config, Devices("a100", 1, 1e12), planned(stage.config)).peak
    advised = [
        check_advice(stage, stage.config, Devices("a100", 1, share * whole), tmp_path / "again")
        for share in (1.0, 0.55, 0.4)
    ]
    assert advised[0] == ""
    assert advised[1].endswith("--config.precision.param_dtype=bfloat16 --config.optimizer.kind=adamw_int8")
    assert advised[2] == "4xa100"


def test_stages_that_do_not_fit_are_named_with_the_remedy(tmp_path):
    flags = ("--config=configs/evaluate_qa.py:sciq", BASE)
    every = make(*[(f"QA {n}", "q", *flags) for n in range(4)], path=tmp_path / "stages")
    tight = remedies.Memory(90e9, 80e9, "generate", "--config.batch_size=8")
    uses = [tight, remedies.Memory(70e9, 80e9, "generate"), tight, remedies.Memory(90e9, 80e9, "train", "4xa100")]
    assert remedies.refusals(every, uses) == [
        "QA 0, QA 2: generate takes 90 GB of each device's 80 GB; give it the line `evaluate_qa --config.batch_size=8` "
        "in a profile (launch/reproduce.sh --profile=FILE).",
        "QA 3: train takes 90 GB of each device's 80 GB; it needs 4xa100.",
    ]


@pytest.mark.parametrize("kind", ["adamw", "adamw_int8", "adamw_int8_master"])
def test_the_bytes_of_a_checkpoint_are_those_of_parameters_and_moments(kind):
    config = config_of("sft_lc")
    config.model, config.optimizer.kind, config.fit.microbatch_size = "llama-2-7b", kind, 8
    config.precision.param_dtype = "float32" if kind == "adamw" else "bfloat16"
    (phase,) = planned(config)(config, parallel.abstract_mesh(1)).phases
    expected = disk._checkpoint(config, Models([]).num_parameters("llama-2-7b"))
    assert phase.parameters + phase.moments == pytest.approx(expected, rel=5e-3)


def test_disk_is_what_is_kept_and_what_is_written_next_to_it(tmp_path):
    every = paper(tmp_path / "stages", "8xa100")
    shapes, params = Models(every), 6.738e9
    sft, forecast, rl, select, qa = [disk.measure(stage, every, shapes) for stage in every]
    assert sft.peak == pytest.approx((2 + 3 * 12) * params, rel=1e-3)  # bfloat16 export, three checkpoints at a time
    assert sft.rest == forecast.rest == pytest.approx(2 * params, rel=1e-3)
    episodes = 1500 * 512 * 3e3
    assert rl.peak == pytest.approx(6 * 2 * params + 2 * 24 * params + episodes, rel=1e-3)
    assert rl.rest == pytest.approx(6 * 2 * params + episodes, rel=1e-3)
    assert select.rest == pytest.approx(-4 * 2 * params, rel=1e-2)  # the four that were not selected
    assert 0 < qa.peak < 1e9
    assert disk.most([sft, forecast, rl]) == sft.rest + forecast.rest + rl.peak
    full = disk.measure(every[0], every, shapes, keep_checkpoints=True)
    assert full.rest == pytest.approx((2 + 2 * 12) * params, rel=1e-3)
    assert disk.measure(every[3], every, shapes, keep_checkpoints=True).rest > 0
    assert disk.downloads(every, shapes) == pytest.approx(2 * params + 2 * 2.776e9, rel=1e-2)
    every[0].config.lora.rank = 16  # adapters alone are saved: of rank 16 in all layers of 7B 40.0M parameters
    assert disk.measure(every[0], every, shapes).peak == pytest.approx((2 + 3 * 12) * 39.98e6, rel=1e-3)


def test_hours_at_the_devices_peaks(tmp_path):
    every = paper(tmp_path / "stages", "")
    shapes, devices = Models(every), Devices.parse("1xh200")
    clock = hours.Clock(devices, every, shapes, {})
    sft, params = clock.time(every[0]), 6.738e9
    # Forward, backward and forward again, of 2 operations a parameter and token.
    assert sft.value == pytest.approx(8 * params * 10_000 * 250 * 3 / 989e12 / 3600, rel=1e-3)
    every[0].config.lora.rank = 16  # frozen matrices need no gradients
    assert clock.time(every[0]).value == pytest.approx(sft.value * 6 / 8, rel=1e-6)
    assert (sft.source, str(sft)[0]) == ("floor", ">")
    rl = clock.time(every[2])
    assert 1500 * 40 / 3600 < rl.value < 1500 * 70 / 3600  # 40 to 70 seconds a step
    assert hours.Clock(Devices.parse("8xa100"), every, shapes, {}).time(every[2]).value < rl.value
    # Decoding reads the weights for every token: 300 tokens for each of 5,000 / 64 batches.
    select = clock.time(every[3])
    assert select.value > 79 * 300 * 2 * params / 4.8e12 / 3600
    float32 = make(
        ("x", "x", "--config=configs/sft_lc.py", "--config.precision.compute_dtype=float32"), path=tmp_path / "s"
    )
    assert str(clock.time(float32[0])) == "-"


def test_figures_of_other_devices_are_not_used(tmp_path):
    for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "cpu"):
        record = {"benchmark": "generate", "size": {"name": "7B"}, "rows": [{}], "hardware": {"device": kind}}
        (tmp_path / f"{kind}.json").write_text(json.dumps(record))
    assert list(hours.measured_figures(tmp_path, "h100")) == ["generate 7B"]
    assert list(hours.measured_figures(tmp_path, "a100-40gb")) == ["generate 7B"]
    assert hours.measured_figures(tmp_path, "a100") == hours.measured_figures(tmp_path, "h200") == {}


def test_the_quickstart_takes_what_it_took(tmp_path):
    flags = ("--config=configs/sft_lc.py:mini", "--config.fit.num_epochs=1")
    every = make(("LC SFT", "x", *flags), ("another", "y", *flags), path=tmp_path / "stages")
    row = {"name": "LC SFT", "seconds": 36.0}
    record = {"benchmark": "quickstart", "size": {"name": "miniature"}, "rows": [row], "hardware": {"device": "cpu"}}
    (tmp_path / "quickstart-cpu.json").write_text(json.dumps(record))
    clock = hours.Clock(Devices.here(), every, Models(every), hours.measured_figures(tmp_path, "cpu"))
    assert clock.time(every[0]) == hours.Hours(0.01, "measured")
    assert str(clock.time(every[1])) == "-"


def test_requests_and_dollars_of_an_evaluation(tmp_path):
    every = paper(tmp_path / "stages", "")
    counts = [work.num_rows(stage) * work.num_candidates(stage, every) for stage in every]
    assert counts[3:] == [5 * 1000, work.ROWS["BioASQ"]]  # five candidates on the validation questions
    select, qa = [Bill.of(stage.config, count) for stage, count in zip(every[3:], counts[3:], strict=True)]
    assert select.calls == 5 * 1000 * (1 + 2 + 0.1)  # answers, two forecasts, a tenth of a request to compare ten
    assert qa.batch == pytest.approx(qa.dollars / 2)
    assert Bill.of(every[0].config, counts[0]) == Bill()
    assert select + qa == Bill(select.calls + qa.calls, select.dollars + qa.dollars, select.batch + qa.batch)
