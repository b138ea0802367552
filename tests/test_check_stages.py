"""Checks before the first stage of all that would stop one: data, leaks, checkpoints, disk, devices, memory."""

import functools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs import base
from lc_jax.data.rows import HubUnreachable
from lc_jax.evaluation import results
from lc_jax.planning import questions, stages
from lc_jax.planning.models import Models
from lc_jax.preflight import Problems
from lc_jax.tasks import check_stages
from tests.test_configs import config_of


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    questions._load.cache_clear()
    questions._rows.cache_clear()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A copy of the published data set's test prompts, with questions of SciQ and without those of BioASQ."""
    copy = tmp_path / "copy"
    for name in ("sciq", "bioasq"):
        rows = [{"question_id": str(n), "paragraph_generation_prompt": f"Write about {name} {n}."} for n in range(4)]
        write(copy / f"{name}_paragraph_generation_test.jsonl", rows)
    write(tmp_path / "sciq.jsonl", [{"question": f"What is {n}?", "correct_answer": "it"} for n in range(4)])
    monkeypatch.setenv("LC_DATASET", str(copy))
    monkeypatch.setenv("LC_SCIQ", str(tmp_path / "sciq.jsonl"))
    monkeypatch.delenv("LC_BIOASQ", raising=False)
    return copy


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(path, *lines):
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return stages.load(path)


def evaluation(tmp_path, name, *flags):
    flags = (f"--config.model={base.LLAMA}", "--config.annotator.name=simulated/miniature", "--config.method=x", *flags)
    folder = tmp_path / "evaluation" / name
    return (f"evaluate {name}", folder / "result.json", f"--config=configs/evaluate_qa.py:{name}",
            f"--config.output={folder}", *flags)  # fmt: skip


def test_a_missing_test_set_leaves_out_its_stages_and_is_named_in_the_table(published, tmp_path, capsys):
    every = make(tmp_path / "stages", evaluation(tmp_path, "sciq"), evaluation(tmp_path, "bioasq"))
    config = config_of("check_stages")
    config.stages, config.ready = str(tmp_path / "stages"), str(tmp_path / "ready")
    config.evaluations = str(tmp_path / "evaluation")
    check_stages.run(config, None)
    printed = capsys.readouterr().out
    assert "Not evaluated: BioASQ: --config.questions.answers is empty" in printed
    assert "LC_BIOASQ=FILE" in printed
    assert (tmp_path / "ready").read_text() == f"{every[0]}\n"
    (line,) = results.not_evaluated(tmp_path / "evaluation")
    assert line.startswith("not evaluated: BioASQ: --config.questions.answers is empty")
    shutil.rmtree(published)  # done stages are not looked at
    (tmp_path / "evaluation" / "sciq").mkdir()
    (tmp_path / "evaluation" / "sciq" / "result.json").touch()
    make(tmp_path / "stages", evaluation(tmp_path, "sciq"))
    check_stages.run(config, None)
    assert results.not_evaluated(tmp_path / "evaluation") == []


def test_a_file_that_the_user_names_must_be_there(published, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_BIOASQ", str(tmp_path / "elsewhere.json"))
    every = make(tmp_path / "stages", evaluation(tmp_path, "bioasq"))
    with pytest.raises(Problems, match=r"evaluate bioasq: .*elsewhere\.json"):
        questions.check_missing(questions.missing_tests(every))


def test_a_stage_without_its_questions_is_checked_for_all_else(published, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_BIOASQ", str(tmp_path / "elsewhere.json"))
    (stage,) = make(tmp_path / "stages", evaluation(tmp_path, "bioasq", f"--config.model={tmp_path}/no-model"))
    config = config_of("check_stages")
    config.stages = str(tmp_path / "stages")
    with pytest.raises(Problems) as caught:
        check_stages.run(config, None)
    first, *others = caught.value.messages
    assert "elsewhere.json" in first
    assert "no-model" in " ".join(others)
    assert not any("elsewhere.json" in message for message in others)
    check_stages.check_own([stage], {(stage.name, first.removeprefix(f"{stage.name}: "))})
    with pytest.raises(Problems, match=r"elsewhere\.json"):
        check_stages.check_own([stage])


@pytest.mark.parametrize("setting", ["source", "answers"])
def test_questions_that_a_flag_names_must_be_there(published, tmp_path, setting):
    flag = f"--config.questions.{setting}={tmp_path}/wrong.jsonl"
    every = make(tmp_path / "stages", evaluation(tmp_path, "bioasq", flag))
    with pytest.raises(Problems, match=rf"bioasq: --config.questions.{setting}: No file or folder .*wrong\.jsonl"):
        questions.check_missing(questions.missing_tests(every))


@pytest.mark.parametrize(
    ("error", "is_absent"),
    [
        (FileNotFoundError("no such split"), True),
        (ValueError("the hub has no such data set"), True),
        (HubUnreachable("the hub does not answer"), False),
        (PermissionError("may not be read"), False),
    ],
)
def test_a_data_set_is_missing_only_where_it_was_looked_for(published, tmp_path, monkeypatch, error, is_absent):
    def load(**settings):
        raise error

    monkeypatch.delenv("LC_SCIQ")
    monkeypatch.setattr(questions, "_load", load)
    monkeypatch.setattr(questions._load, "cache_clear", lambda: None, raising=False)
    every = make(tmp_path / "stages", evaluation(tmp_path, "sciq"))
    if is_absent:
        assert [data.reason for data in questions.missing_tests(every)] == [str(error)]
    else:
        with pytest.raises(Problems, match=f"evaluate sciq: {error}"):
            questions.check_missing(questions.missing_tests(every))


def test_questions_that_training_has_seen_are_found(published, tmp_path):
    rows = tmp_path / "rows.jsonl"
    sft = ("SFT", "m", "--config=configs/sft.py:mini", f"--config.data.rows.source={rows}")
    every = make(tmp_path / "stages", sft, evaluation(tmp_path, "sciq"))
    write(rows, [{"prompt": f"Write about that {n}.", "completion": "x"} for n in range(8)])
    assert questions.leaks(every) == ([], [])
    questions._rows.cache_clear()
    write(rows, [{"prompt": "  write ABOUT sciq 2.", "completion": "x"}, {"prompt": "what is 2?", "completion": "x"}])
    (problem,), notes = questions.leaks(every)
    assert problem.startswith("SciQ: 1 of 4 questions of the evaluation are in the training data of SFT; give the ")
    assert notes == []


def test_checkpoints_of_the_hub_are_read_without_their_weights(tmp_path, monkeypatch):
    name, names = "meta-llama/Llama-2-7b-hf", []
    source = tmp_path / "snapshot"
    shutil.copytree(base.LLAMA, source, ignore=shutil.ignore_patterns("*.safetensors", "*.lc"))
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    monkeypatch.setattr(check_stages.hub, "check_access", names.append)
    monkeypatch.setattr(check_stages.hub, "download_texts", lambda name: source)
    every = make(
        tmp_path / "stages",
        ("SFT", "m/model", "--config=configs/sft_lc.py", f"--config.model={name}", "--config.output=m"),
        ("QA", "q", "--config=configs/evaluate_qa.py", "--config.model=m/model"),
        ("QA 2", "q2", "--config=configs/evaluate_qa.py", "--config.model=nobody/knows"),
    )
    (tmp_path / "texts").mkdir()
    folders = check_stages.check_checkpoints(every, every[:2], tmp_path / "texts")
    assert names == [name]
    assert not (Path(folders[name]) / "model.safetensors.index.json").exists()
    shapes = Models(every, folders)
    assert shapes.num_parameters("m/model") == Models([]).num_parameters(base.LLAMA)

    def refuse(name):
        raise FileNotFoundError(f"{name!r} is no folder here, and from the hub: it is gated")

    monkeypatch.setattr(check_stages.hub, "check_access", refuse)
    with pytest.raises(Problems) as raised:
        check_stages.check_checkpoints(every, every, tmp_path / "texts")
    assert [message.partition(" is no")[0] for message in raised.value.messages] == [
        "SFT: 'meta-llama/Llama-2-7b-hf'",
        "QA 2: 'nobody/knows'",
    ]
    (source / "config.json").unlink()
    monkeypatch.setattr(check_stages.hub, "check_access", names.append)
    (tmp_path / "more").mkdir()
    with pytest.raises(Problems, match=r"SFT: .* has no config\.json"):
        check_stages.check_checkpoints(every, every[:1], tmp_path / "more")


def test_disk_devices_and_memory_come_together(tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.jsonl"
    write(rows, [{"prompt": f"Write {n}.", "completion": "x"} for n in range(40)])
    flags = ("--config=configs/sft.py:mini", f"--config.data.rows.source={rows}", f"--config.model={base.LLAMA}")
    make(tmp_path / "stages", ("SFT", tmp_path / "m" / "model", *flags))
    config = config_of("check_stages")
    config.stages, config.profile = str(tmp_path / "stages"), "1xh200"
    check_stages.run(config, None)
    assert "Devices: 1xh200, " in capsys.readouterr().out
    config.ready = str(tmp_path / "ready")  # the stages run next, here
    check_stages.run(config, None)
    assert "xcpu, " in capsys.readouterr().out
    config.devices = "8xa100"
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(check_stages.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(Problems) as raised:
        check_stages.run(config, None)
    space, kind = raised.value.messages
    assert f"{tmp_path} has 0 GB of free disk; it takes: the stages up to 0 GB" in space
    assert space.endswith("Free some, or give another LC_OUTPUT.")
    assert re.match(r"--devices=8xa100, but this machine has \d+xcpu: leave --devices out", kind)
    config.devices = ""
    monkeypatch.setattr(check_stages.shutil, "disk_usage", lambda place: usage._replace(free=10**15))
    monkeypatch.setattr(check_stages.Devices, "here", lambda: check_stages.Devices("cpu", 1, 1e6))
    with pytest.raises(Problems) as raised:
        check_stages.run(config, None)
    (room,) = raised.value.messages
    assert room.startswith("SFT: train takes 0 GB of each device's 0 GB; ")


def test_each_disk_has_room_for_what_goes_there(tmp_path, monkeypatch):
    released = "tatsu-lab/linguistic-calibration-lc-sft"
    flags = ("--config=configs/evaluate_qa.py:sciq", "--config.annotator.name=simulated/miniature")
    every = make(
        tmp_path / "stages",
        ("QA", tmp_path / "out" / "result.json", *flags, f"--config.model={released}"),
        ("SFT", tmp_path / "sft" / "model", "--config=configs/sft_lc.py", "--config.model=llama-2-7b"),
    )
    monkeypatch.setenv("LC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check_stages.hub, "downloads", lambda: tmp_path / "hub")
    monkeypatch.setattr(check_stages.hub, "is_cached", lambda name: False)
    (tmp_path / "hub").mkdir()
    numbers = {tmp_path / "hub": 1}  # the hub's cache is on a disk of its own
    stat, usage = Path.stat, shutil.disk_usage(tmp_path)
    free = {tmp_path / "hub": 20e9, tmp_path: 300e9}
    monkeypatch.setattr(Path, "stat", lambda p, **_: SimpleNamespace(st_dev=numbers[p]) if p in numbers else stat(p))
    monkeypatch.setattr(check_stages.shutil, "disk_usage", lambda place: usage._replace(free=int(free[place])))
    check = functools.partial(check_stages.check_disk, every, Models(every))
    with pytest.raises(Problems) as raised:
        check(keep_checkpoints=False)
    # The difference and its base, 13.5 GB each, on the one disk; on the other 27 GB recovered next to the stages.
    downloads = f"{tmp_path / 'hub'} has 20 GB of free disk; it takes: downloads up to 27 GB "
    assert [message[: len(downloads)] for message in raised.value.messages] == [downloads]
    free[tmp_path / "hub"] = 28e9
    check(keep_checkpoints=False)
    free[tmp_path] = 250e9
    with pytest.raises(Problems, match=r"the stages up to 270 GB, models .* up to 27 GB .* LC_OUTPUT or another LC_C"):
        check(keep_checkpoints=False)
