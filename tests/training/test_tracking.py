"""W&B: configured, resumed under its id, with samples; its failures end no run."""

import sys
import types

import pytest

from lc_jax.training import tracking
from lc_jax.training.logging import Run, RunDirectory

WANDB = {"project": "p", "mode": "offline"}


class Fake(types.ModuleType):
    """A wandb that remembers what it is called with."""

    def __init__(self, fails=()):
        super().__init__("wandb")
        self.fails, self.inits, self.logged, self.finished = fails, [], [], 0

    def init(self, **arguments):
        if "init" in self.fails:
            raise RuntimeError("no network")
        self.inits.append(arguments)
        return self

    def log(self, metrics, step):
        if "log" in self.fails:
            raise RuntimeError("disk full")
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1

    @staticmethod
    def Table(columns, data):
        return columns, data


@pytest.fixture
def fake(monkeypatch):
    def install(*fails):
        module = Fake(fails)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


def run(folder, first=0):
    log = Run(RunDirectory(folder, {}, WANDB, {"seed": 3, "fit": {"batch_size": 2}}), 2, first)
    for step in range(first, 2):
        log.log(step, {"loss": 0.5})
        log.log_samples(step, [{"prompt": "q", "extracted": {"a": 0.5}, "reward": 1.0}])
        log.advance()
    log.close()


def test_a_run_has_its_config_its_name_and_the_same_id_after_a_resume(tmp_path, fake):
    wandb = fake()
    run(tmp_path / "mine")
    run(tmp_path / "mine", first=1)
    run(tmp_path / "other")
    first, resumed, other = wandb.inits
    assert first["id"] == resumed["id"] != other["id"]
    assert (first["name"], first["resume"], first["project"], first["mode"]) == ("mine", "allow", "p", "offline")
    assert first["config"] == {"seed": 3, "fit": {"batch_size": 2}}
    assert [step for step, _ in wandb.logged] == [0, 0, 1, 1] + [1, 1] + [0, 0, 1, 1]
    assert wandb.logged[0][1]["loss"] == 0.5
    assert wandb.logged[1][1] == {"samples": (["prompt", "extracted", "reward"], [["q", '{"a": 0.5}', 1.0]])}
    assert wandb.finished == 3


@pytest.mark.parametrize("fails", ["init", "log"])
def test_what_fails_in_wandb_ends_no_run(tmp_path, fake, fails):
    fake(fails)
    run(tmp_path)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_missing_wandb_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run(tmp_path)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_mode_that_wandb_does_not_have_is_refused():
    tracking.check(WANDB)
    tracking.check({"project": "", "mode": "x"})  # switched off
    with pytest.raises(ValueError, match=r"--config\.wandb\.mode=x: give one of online, offline, disabled"):
        tracking.check({"project": "p", "mode": "x"})


def test_the_bar_shows_the_time_left_from_the_second_step_on(tmp_path):
    log = Run(RunDirectory(tmp_path, {}), 5, first_step=1)
    bars = []
    for step in range(1, 4):
        log.log(step, {"loss": 0.5})
        log.advance()
        bars.append((log._bar.initial, "<" in str(log._bar)))  # tqdm writes [elapsed<remaining]
    log.close()
    assert bars == [(2, False), (2, True), (2, True)]
