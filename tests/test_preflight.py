"""All problems are reported at once."""

import pytest

from lc_jax.preflight import Problems, check_all


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
    check_all(lambda: 1, lambda: None)


def test_an_error_in_the_code_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        check_all(lambda: 1 / 0)
