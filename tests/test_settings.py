"""The command line's settings: values by type, paths, and one message for each mistake."""

import getpass
from pathlib import Path

import pytest

from lc_jax import settings
from lc_jax.preflight import Problems


def parse(*arguments):
    return settings.parse(arguments)[0]


def problems(*arguments):
    with pytest.raises(Problems) as caught:
        settings.parse(arguments)
    assert all("\n" not in message for message in caught.value.messages)
    return caught.value.messages


def test_values_have_the_type_of_the_config():
    config = parse(
        "--config=configs/ppo.py:mini", "--config.seed=3", "--config.ppo.kl_coef", "1", "--config.published=true",
        "--config.alarms.stop", "--noconfig.ppo.frozen_on_host", "--config.reader.temperature=1e-3",
        "--config.questions.answers=None", "--config.questions.split=", "--config.policy= a b ",
    )  # fmt: skip
    assert (config.seed, config.ppo.kl_coef, config.reader.temperature) == (3, 1.0, 1e-3)
    assert isinstance(config.ppo.kl_coef, float)
    assert (config.published, config.alarms.stop, config.ppo.frozen_on_host) == (True, True, False)
    assert config.loss.masked is False  # follows from `published`
    assert (config.questions.answers, config.questions.split, config.policy) == (None, "", "a b")


def test_none_is_the_same_as_an_empty_value_in_every_text_setting():
    published = ("--config=configs/ppo.py", "--config.validation.answers=None", "--config.questions.answers=")
    assert (parse(*published).validation.answers, parse(*published).questions.answers) == ("", "")
    assert parse("--config=configs/sft_lc.py", "--config.precision.remat=none").precision.remat == "none"  # a word


@pytest.mark.parametrize("text", ["LC RL,mine", "('LC RL', 'mine')", "['LC RL','mine']"])
def test_lists_of_text(text):
    assert parse("--config=configs/report.py", f"--config.methods={text}").methods == ("LC RL", "mine")


def test_lists_of_numbers():
    assert parse("--config=configs/pretrain.py:llama", "--config.mix=0.5,0.25,0.25").mix == (0.5, 0.25, 0.25)
    assert parse("--config=configs/generate_data.py", "--config.annotator.price=1, 5.5").annotator.price == (1, 5.5)
    assert parse("--config=configs/report.py", "--config.methods=").methods == ()
    assert "with commas" in problems("--config=configs/pretrain.py:llama", "--config.mix=a,b")[0]


def test_order_and_other_flags_do_not_matter():
    config, others = settings.parse(["-v=1", "--config.seed=1", "--config=configs/report.py:mini", "--config.seed=2"])
    assert (config.seed, others) == (2, ["-v=1"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.ppo.kl_coeff=1", "--config.ppo.kl_coeff: no such setting. Did you mean --config.ppo.kl_coef?"),
        ("--config.kl_coef=1", "--config.kl_coef: no such setting. Did you mean --config.ppo.kl_coef?"),
        ("--config.outptu=x", "--config.outptu: no such setting. Did you mean --config.output?"),
        ("--config.kl=1", "--config.kl is a group of settings: give one of --config.kl.k_beta, --config.kl.kind, "
                          "--config.kl.target."),
        ("--config.seed.x=1", "--config.seed.x: seed is a single setting; give --config.seed=VALUE."),
        ("--config.ppo.num_steps=eight", "--config.ppo.num_steps=eight: give a whole number, such as 60."),
        ("--config.ppo.num_steps=1.5", "--config.ppo.num_steps=1.5: give a whole number, such as 60."),
        ("--config.ppo.num_steps=", "--config.ppo.num_steps=: give a whole number, such as 60."),
        ("--config.ppo.num_steps=99999999999",
         "--config.ppo.num_steps=99999999999: give a whole number of at most 2147483647, such as 60."),
        ("--config.ppo.kl_coef=much", "--config.ppo.kl_coef=much: give a number, such as 0.02."),
        ("--config.ppo.kl_coef=nan", "--config.ppo.kl_coef=nan: give a number, such as 0.02."),
        ("--config.dry_run=perhaps", "--config.dry_run=perhaps: give true or false."),
        ("--config.policy", "--config.policy has no value: give --config.policy=VALUE."),
        ("--config.seed=-1", "--config.seed=-1: give a whole number from 0 to 2147483647."),
        ("--config.policy=~nobody-here/x",
         "--config.policy=~nobody-here/x: no home folder for '~nobody-here' here; write the path out."),
        ("--config.policy=file://host/x",
         "--config.policy=file://host/x: write it as file:///absolute/path, or as a path."),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_remedy(argument, message):
    assert problems("--config=configs/ppo.py:mini", argument) == [message]


def test_all_wrong_settings_are_named_at_once():
    lines = problems("--config=configs/ppo.py:mini", "--config.seeed=1", "--config.kl.target=x", "--config.ppo.keep=y")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("file", "messages"),
    [
        ("configs/pppo.py", ["no config file 'configs/pppo.py'; looked for it in ", "mean --config=configs/ppo.py?"]),
        ("ppo", ["no config file 'ppo'", "Did you mean --config=configs/ppo.py?"]),
        ("/no/where/x.py", ["no config file '/no/where/x.py'; looked for it in /no/where.", "configs/{build_"]),
        ("configs", ["--config=configs is a folder"]),
        ("README.md", ["README.md is not a Python file"]),
        ("configs/base.py", ["configs/base.py has no function get_config(mode)"]),
        ("configs/ppo.py:minni", ["unknown mode ':minni': did you mean ':mini'?"]),
        ("configs/evaluate_qa.py:bioask", ["did you mean ':bioasq'?", "':sciq'"]),
        ("configs/pretrain.py:mini", ["unknown mode ':mini'", "':llama' or ':gpt_neox'"]),
        ("", ["give --config=FILE[:MODE]", "configs/{build_knowledge,"]),
    ],
)  # fmt: skip
def test_a_wrong_config_file_or_mode_is_named(file, messages):
    (problem,) = problems(f"--config={file}")
    for message in messages:
        assert message in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "line 1: invalid syntax"),
        ("\ndef get_config():\n    return {}['x']", "line 3: KeyError: 'x'"),
        ("def get_config():\n    return {}", "must return a ConfigDict"),
        ("def get_config():\n    raise ValueError('too small')", "too small"),
        ("import no_such_package", "no_such_package"),
    ],
)
def test_a_config_file_of_ones_own_that_cannot_be_run(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises((Problems, ModuleNotFoundError), match=message):
        settings.parse([f"--config={path}"])


def test_another_working_folder_and_a_config_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("--config=configs/ppo.py:mini").task == "ppo"
    (tmp_path / "mine.py").write_text(
        "from configs import base\ndef get_config():\n    return base.base_config('report', '')\n"
    )
    assert parse("--config=mine.py").task == "report"
    assert "takes no mode" in problems("--config=mine.py:mini")[0]


def test_every_path_begins_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("LC_OUTPUT", "~/runs")
    monkeypatch.setenv("LC_DATASET", " ~/data/ ")
    home = str(Path.home())
    config = parse("--config=configs/sft_lc.py:mini", "--config.model=~/m/", "--config.prompt_dir=~")
    assert (config.output, config.model, config.prompt_dir) == (f"{home}/runs/lc_sft", f"{home}/m", home)
    assert config.data.rows.source == f"{home}/runs/data/sft.jsonl"
    assert parse("--config=configs/sft_lc.py").data.rows.source.startswith(f"{home}/data:")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///a/b%20c", "/a/b c"),
        ("a/b//", "a/b"),
        ("/", "/"),
        ("http://localhost/v1/", "http://localhost/v1/"),
        ("about ~ 3", "about ~ 3"),
        ("~ three", "~ three"),
        ("", ""),
        (f"~{getpass.getuser()}/x", f"{Path.home()}/x"),
    ],
)
def test_paths_are_expanded_and_other_text_is_not(text, path):
    assert settings.expand_path(text) == path


@pytest.mark.parametrize(("seed", "value"), [("", 0), (" 7 ", 7)])
def test_an_empty_variable_is_unset(monkeypatch, seed, value):
    monkeypatch.setenv("LC_SEED", seed)
    monkeypatch.setenv("LC_OUTPUT", "")
    config = parse("--config=configs/sft_lc.py:mini")
    assert (config.seed, config.output) == (value, "runs/miniature/lc_sft")


@pytest.mark.parametrize("seed", ["x", "-1", "1.5"])
def test_a_seed_that_is_no_number_is_named(monkeypatch, seed):
    monkeypatch.setenv("LC_SEED", seed)
    assert problems("--config=configs/sft_lc.py:mini")[0].startswith(f"LC_SEED={seed}: ")
