"""The stages of a script with their profiles, and the checks before the first one."""

import pytest

from lc_jax.planning import stages
from lc_jax.preflight import Problems
from lc_jax.tasks import check_stages


@pytest.fixture
def listed(tmp_path):
    """Writes a file of stages: lines of name, result and flags."""

    def write(*lines):
        path = tmp_path / "stages"
        path.write_text("".join("\t".join(line) + "\n" for line in lines))
        return path

    return write


SFT = ("LC SFT", "out/lc_sft/model", "--config=configs/sft_lc.py", "--config.fit.batch_size=8")
QA = ("QA", "out/qa/result.json", "--config=configs/evaluate_qa.py:sciq", "--config.method=x")


def test_a_profile_adds_flags_to_the_stages_of_its_configs(listed, tmp_path):
    profile = tmp_path / "mine.flags"
    profile.write_text(
        "# comment\nall --config.seed=7  # for each\n\ntraining --config.optimizer.kind=adamw_int8\n"
        "sft_lc --config.fit.batch_size=4 --config.fit.num_epochs=1\nevaluate_qa --config.limit=9\n"
        "evaluate_qa:sciq --config.prompt_dir='my words'\n"
    )
    sft, qa = stages.load(listed(SFT, QA), str(profile))
    assert (sft.config.seed, sft.config.optimizer.kind, sft.config.fit.num_epochs) == (7, "adamw_int8", 1)
    assert sft.config.fit.batch_size == 8  # the stage's own flag has precedence
    assert (qa.config.seed, qa.config.limit, qa.config.prompt_dir) == (7, 9, "my words")
    assert (sft.experiment, qa.experiment) == ("sft_lc", "evaluate_qa:sciq")
    again = listed(str(sft).split("\t"))  # the flags of the profile are in the line
    assert stages.load(again)[0].config.to_json() == sft.config.to_json()


@pytest.mark.parametrize("name", [path.stem for path in stages.PROFILES.glob("*.flags")])
def test_every_profile_fits_the_configs(listed, name):
    experiments = ["sft_lc", "extract_answers", "forecast_probs", "ppo", "ppo_factuality", "evaluate_qa"]
    assert stages.load(listed(*[(f, f, f"--config=configs/{f}.py") for f in experiments]), name)


def test_what_is_wrong_with_a_profile_is_said_with_its_line(listed, tmp_path):
    with pytest.raises(Problems, match=r"--profile=9xh200: no such file, nor a profile of launch/profiles \(1xh200, "):
        stages.load(listed(SFT), "9xh200")
    profile = tmp_path / "mine.flags"
    profile.write_text("pop --config.seed=1\nppo seed=1\nppo --config.x='\n")
    with pytest.raises(Problems) as raised:
        stages.load(listed(SFT), str(profile))
    assert raised.value.messages == [
        f"{profile}, line 1: 'pop' is no config: did you mean ppo? give the name of a file in configs/, training, or "
        "all.",
        f"{profile}, line 2: 'seed=1' is no flag: give --config.NAME=VALUE.",
        f"{profile}, line 3: No closing quotation; close the quotation mark.",
    ]
    profile.write_text("sft_lc --config.lr=1\n")
    with pytest.raises(Problems, match=r"LC SFT: --config.lr: no such setting"):
        stages.load(listed(SFT), str(profile))


def test_problems_of_all_stages_come_together_and_once(listed, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 8)
    model, output = f"--config.model={tmp_path}/model", f"--config.output={tmp_path}/out"
    own = ("--config=configs/sft.py:mini", f"--config.data.rows.source={rows}", output)
    later = ("--config=configs/sft.py:mini", f"--config.data.rows.source={tmp_path}/made.jsonl", output, model)
    every = stages.load(
        listed(
            ("one", f"{tmp_path}/model", *own, "--config.fit.batch_size=0"),
            ("two", f"{tmp_path}/made.jsonl", *own, "--config.fit.batch_size=0"),
            ("three", f"{tmp_path}/c", *later, "--config.optimizer.b1=2"),
        )
    )
    with pytest.raises(Problems) as raised:
        check_stages.check_own(every)
    # The model and the rows of the third are made by the others, and are missing nowhere.
    assert [message.partition(" give")[0] for message in raised.value.messages] == [
        "one, two: --config.fit.batch_size=0:",
        "three: --config.optimizer.b1=2.0:",
    ]
    with pytest.raises(Problems, match=r"made\.jsonl") as alone:
        check_stages.check_own(every[2:])
    assert f"three: --config.model: No checkpoint folder {tmp_path}/model" in str(alone.value)
    # A problem that mentions such a path, but is not that it is missing, is one.
    wrong = (*own, model, f"--config.export_dtype={tmp_path}/model")
    every = stages.load(listed(("one", f"{tmp_path}/model", *own), ("three", f"{tmp_path}/c", *wrong)))
    with pytest.raises(Problems) as raised:
        check_stages.check_own(every)
    assert raised.value.messages == [
        f"three: --config.export_dtype={tmp_path}/model: give one of float32, bfloat16, float16, or leave it empty."
    ]
