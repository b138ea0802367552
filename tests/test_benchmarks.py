"""Every benchmark runs at its small size, agrees with its peer or with float64, and leaves a whole record."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import models, quickstart, reading, report, rounding

OPTIMIZED = True
NAMES = ["attention", "logprobs", "sft_step", "lora_step", "generate", "score", "ppo_step", "optimizer", "matmul"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_benchmark_at_small_size(name, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "SMALL", report.dataclasses.replace(report.SMALL, repeats=1))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    importlib.import_module(f"benchmarks.{name}").main(["--output", str(tmp_path)])
    record = json.loads((tmp_path / f"{name}-cpu.json").read_text())
    assert record["command"] == f"python -m benchmarks.{name}"
    assert {"jax", "numpy"} <= set(record["versions"])
    assert record["hardware"]["cores"] >= 1
    assert record["machine"]["flops"] > 0
    for row in record["rows"]:
        assert row["seconds"] > 0
        assert row["floor_seconds"] > 0
        if row["peer_seconds"] is not None:
            assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"])


@pytest.mark.slow
def test_rounding_is_measured_against_float32(monkeypatch, capsys):
    monkeypatch.setattr(rounding, "COUNT", 4)
    monkeypatch.setattr(rounding, "RANDOM_LAYERS", 2)
    rounding.main()
    first, second = ([line.split() for line in part.splitlines()] for part in capsys.readouterr().out.split("\n\n"))
    assert [row[0] for row in first] == ["model", *["miniature's"] * 4, *["random"] * 3]
    gaps = [[float(x) for x in row[-3:]] for row in first[1:]]
    assert gaps[0][0] < 1e-5 < gaps[1][0] < gaps[1][1]  # float32, then bfloat16 and its 99th percentile
    assert gaps[0][2] == 0 < gaps[1][2]
    differences = {tuple(row[:2]): [float(x.rstrip("%")) for x in row[2:]] for row in second[1:]}
    assert set(differences) == {(name, p) for name in rounding.MODELS for p in ("int8", "bfloat16")}
    assert all(0 < d < 0.05 and -1e-6 < kl < 0.01 and same > 95 for d, kl, same in differences.values())


def test_a_row_is_held_against_peer_and_floor():
    record = report.Row("a", 2.0, "torch", 3.0, 0.5).record()
    assert record["ratio"] == 1.5
    assert record["fraction_of_roofline"] == 0.25


def test_operations_are_those_of_the_formula():
    """Llama 2 7B: 6.476e9 parameters of blocks and norms; the numbers of the formula, by hand."""
    config = models.config_of(report.LARGE)
    params = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    assert models.block_params(config) == params
    expected = 2.0 * params * 2 * 100 + 2.0 * 32 * 4096 * 2 * 100**2 + 2.0 * 32000 * 4096 * 7
    np.testing.assert_allclose(models.forward_flops(config, 2, 100, 7), expected)


def test_quickstart_is_read_from_what_it_prints(tmp_path):
    log, before = tmp_path / "now.txt", tmp_path / "before.txt"
    log.write_text("== summarise\n... 12 s\n== summarise: 3 s\n== LC SFT: done before (x)\n== LC RL: 20 s\n")
    before.write_text("== summarise: 6 s\n== LC RL: 20 s\n")
    quickstart.main(["--log", str(log), "--before", str(before), "--output", str(tmp_path)])
    rows = {row["name"]: row for row in json.loads((tmp_path / "quickstart-cpu.json").read_text())["rows"]}
    assert (rows["summarise"]["seconds"], rows["summarise"]["ratio"]) == (3.0, 2.0)
    assert rows["all"]["ratio"] == pytest.approx(26 / 23)
    with pytest.raises(ValueError, match="No stage"):
        quickstart.stages("nothing")


def test_reading_a_log_leaves_the_figures_of_the_repository_alone(tmp_path, monkeypatch):
    log = tmp_path / "now.txt"
    log.write_text("== summarise: 3 s\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    quickstart.main(["--log", str(log)])
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")] == [
        Path("runs/benchmarks/quickstart-cpu.json")
    ]


@pytest.mark.slow
def test_reading_without_a_checkpoint_says_what_to_give():
    with pytest.raises(
        FileNotFoundError, match=r"nowhere: no such folder; give a base model of the miniature world: .*llama"
    ):
        reading.main("nowhere")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reading", "nowhere"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: nowhere: no such folder")
