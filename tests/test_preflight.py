"""All problems are reported at once."""

import dataclasses

import pytest

from lc_jax.preflight import (
    NATURAL,
    POSITIVE,
    POSITIVE_INT,
    PROBABILITY,
    Problems,
    Range,
    check_all,
    check_output,
    check_settings,
    divisors,
)
from lc_jax.tasks import sft
from tests.test_configs import config_of


def fail(error):
    raise error


def test_every_failing_check_is_named_once_and_in_order():
    nested = Problems(["c", "a"])
    with pytest.raises(Problems) as raised:
        check_all(
            lambda: fail(ValueError("a")), lambda: None, lambda: fail(FileNotFoundError("b")), lambda: fail(nested)
        )
    assert raised.value.messages == ["a", "b", "c"]
    assert str(raised.value) == "a\nb\nc"


def test_checks_that_pass_say_nothing():
    assert check_all(lambda: 1, lambda: None) == [1, None]


def test_an_error_in_the_code_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        check_all(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        (POSITIVE_INT, [1, 8], [0, -1, 1.0, "1", True, None]),
        (NATURAL, [0, 3], [-1, 0.5]),
        (POSITIVE, [1e-9, 3], [0, -1, float("nan"), float("inf"), "x"]),
        (PROBABILITY, [0, 0.5, 1], [-0.1, 1.1, float("nan")]),
    ],
)
def test_ranges_hold_what_a_setting_takes(values, inside, outside):
    assert all(value in values for value in inside)
    assert not any(value in values for value in outside)


def test_every_bad_field_is_named_with_its_flag_and_its_range():
    @dataclasses.dataclass
    class Settings:
        size: int = 0
        share: float = 2.0
        kind: str = "x"
        rate: float = 0.0

    with pytest.raises(Problems) as raised:
        check_settings("fit", Settings(), size=POSITIVE_INT, share=PROBABILITY, kind=("a", "b"), rate=POSITIVE)
    assert raised.value.messages == [
        "--config.fit.size=0: give a whole number of at least 1.",
        "--config.fit.share=2.0: give a number of at least 0 and of at most 1.",
        "--config.fit.kind=x: give one of a, b.",
        "--config.fit.rate=0.0: give a number above 0.",
    ]
    check_settings("fit", Settings(size=1), size=POSITIVE_INT)
    assert 1 not in Range(0, below=1)
    assert 0.5 in Range(0, below=1)
    assert str(Range(above=0, high=1)) == "a number above 0 and of at most 1"


def test_sizes_that_divide_are_offered():
    assert divisors(100, 64) == "50 or 100"
    assert divisors(4, 3) == "2 or 4"
    assert divisors(7, 9) == "7"


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "file").write_text("")
    check_output(tmp_path / "new" / "run")
    check_output(tmp_path)
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"--config\.output=.*file is a file"):
            check_output(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_dry_run_needs_neither_checkpoint_nor_data():
    config = config_of("sft_lc")
    config.model, config.dry_run = "llama-2-7b", True
    config.data.rows.source = "none.jsonl"
    sft.check(config)
    config.dry_run = False
    with pytest.raises(Problems, match=r"No checkpoint folder llama-2-7b[^\n]*\n[^\n]*none.jsonl"):
        sft.check(config)
