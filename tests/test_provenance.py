"""Fingerprints and changes of settings, by which a run tells whether it continues an earlier one."""

import pytest

from lc_jax import provenance


def test_a_fingerprint_is_that_of_the_value_in_json():
    value = provenance.fingerprint({"b": [1, "é"], "a": None})
    assert value == provenance.fingerprint({"a": None, "b": (1, "é")}) == "1c3d52eb78675f43aa6a9ba747570599"
    assert value != provenance.fingerprint({"a": "", "b": [1, "é"]})


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1}, {"a": 2}, "a was 1, is 2"),
        # Of the versions before a setting was there: nothing, or its value for "as before".
        *(({"a": 1}, {"a": 1, "columns": value}, "") for value in ("", None, False, 0, 0.0, [], {}, '""', "null", "0")),
        ({"a": 1}, {"a": 1, "columns": "x=y"}, "columns was no setting, is 'x=y'"),
        ({"a": 1, "old": ""}, {"a": 1}, ""),
        ({"a": 1, "old": 3}, {"a": 1}, "old was 3, is no setting"),
        ({"questions": {"source": "a"}}, {"questions": {"source": "a", "columns": ""}}, ""),
        ({"questions": {"source": "a"}}, {"questions": {"source": "b"}}, "questions.source was 'a', is 'b'"),
        ({"split": None}, {"split": ""}, ""),
        ({"split": "null"}, {"split": '""'}, ""),
        ({"limit": 0}, {"limit": 5}, "limit was 0, is 5"),
        ({"flag": False}, {"flag": None}, "flag was False, is None"),
        ({"a": 1, "b": 2}, {"a": 3, "b": 4}, "a was 1, is 3; b was 2, is 4"),
    ],
)
def test_a_setting_that_an_older_record_lacks_changes_nothing_while_it_is_empty(before, now, words):
    assert provenance.describe_changes(before, now) == words
