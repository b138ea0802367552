"""The list of faults for tests/mutate.py is current, and some of the cheapest are caught."""

import pytest

from tests import mutate

CHEAP = ("confidence = max(probs)", "shaped = -kl_coef")  # without JAX and with it


def test_every_mutation_fits_its_file():
    mutations = mutate.load()
    assert len(mutations) >= 45
    assert mutate.stale(mutations) == []
    assert all(m.new != m.old for m in mutations)


def test_a_stale_list_is_an_error(tmp_path):
    (tmp_path / "list.txt").write_text("lc_jax/rl/kl.py  tests/rl/test_literal.py\n    no such text  =>  another\n")
    (message,) = mutate.stale(mutate.load(tmp_path / "list.txt"))
    assert message == "lc_jax/rl/kl.py: 'no such text' occurs 0 times, mend tests/mutations.txt"


@pytest.mark.slow
def test_cheap_mutations_are_caught():
    chosen = [m for m in mutate.load() if m.old.startswith(CHEAP)]
    assert len(chosen) == len(CHEAP)
    with mutate.copied_tree() as root:
        survivors = [m.label for m in chosen if mutate.survives(m, root)]
    assert survivors == []


def test_a_survivor_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(mutate, "passes", lambda tests, root: True)
    monkeypatch.setattr(mutate, "survives", lambda mutation, root: "-kl_coef" in mutation.old)
    assert mutate.main(["rl/advantage.py"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} mutations, 1 survivors"
    assert sum(line.startswith("SURVIVES") for line in lines) == 1
    assert mutate.main(["rl/kl.py", "--list"]) == 0


@pytest.mark.slow
def test_tests_that_are_not_there_are_an_error():
    fault = mutate.Mutation("lc_jax/rl/kl.py", "target", "goal", ("tests/rl/no_such_file.py",))
    with mutate.copied_tree() as root, pytest.raises(RuntimeError, match="pytest ended with 4"):
        mutate.survives(fault, root)
