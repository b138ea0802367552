"""Killed runs end in the weights of uninterrupted ones: two of the points of `python -m tests.kill_runs`."""

import pytest

from tests.kill_runs import kill_runs


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_weights(tmp_path):
    assert kill_runs(2, 0, tmp_path, ["sft"]) == {"sft": 2}
