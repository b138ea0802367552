"""Agreement of judges and of stated with intrinsic confidence: by hand, and against scikit-learn."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from lc_jax.evaluation import agreement
from tests.evaluation.test_report import entry


def test_two_judges_by_hand():
    """Ten answers: both right 4, both wrong 3, one more each way 2 and 1; chance .6 x .5 + .4 x .5."""
    first = [1] * 4 + [0] * 3 + [1] * 2 + [0]
    second = [1] * 4 + [0] * 3 + [0] * 2 + [1]
    result = agreement.verdicts(first, second)
    assert (result.num_answers, result.raw, result.kappa) == (10, pytest.approx(0.7), pytest.approx(0.2 / 0.5))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_kappa_is_that_of_scikit_learn(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    kappa = agreement.verdicts(first, second).kappa
    if len({*first, *second}) == 1:
        assert math.isnan(kappa)
    else:
        assert kappa == pytest.approx(cohen_kappa_score(first, second))


def test_a_gap_by_hand():
    """Three questions in the bin of intrinsic .05 with gaps .05, .05, .35, and one at 1 with gap .2."""
    confidences, intrinsic = [0.1, 0.0, 0.4, 0.8], [0.05, 0.05, 0.05, 1.0]
    result = agreement.faithfulness(confidences, intrinsic)
    assert result.num_questions == 4
    assert result.gap == pytest.approx(0.65 / 4)
    assert result.cmfg == pytest.approx(1 - (0.45 / 3 + 0.2) / 2)
    assert result.correlation == pytest.approx(np.corrcoef(confidences, intrinsic)[0, 1])


def test_a_constant_is_as_faithful_as_chance_and_the_intrinsic_confidence_itself_is_faithful():
    intrinsic = (np.arange(1000) + 0.5) / 1000
    half = agreement.faithfulness(np.full(1000, 0.5), intrinsic)
    assert half.cmfg == pytest.approx(0.75)
    assert agreement.faithfulness(np.ones(1000), intrinsic).cmfg == pytest.approx(0.5)
    assert math.isnan(half.correlation)
    same = agreement.faithfulness(intrinsic, intrinsic)
    assert (same.gap, same.cmfg, same.correlation) == (0, 1, pytest.approx(1))
    skewed = np.repeat([0.95, 0.05], [900, 100])  # nine tenths are sure: always saying so is not faithful
    sure = agreement.faithfulness(np.full(1000, 0.95), skewed)
    assert sure.gap == pytest.approx(0.09)
    assert sure.cmfg == pytest.approx(1 - 0.9 / 2)


@pytest.mark.parametrize("pair", [([], []), ([0.5], [0.5, 0.5])])
def test_pairs_are_needed(pair):
    with pytest.raises(ValueError, match="give two"):
        agreement.verdicts(*pair)
    with pytest.raises(ValueError, match="give two"):
        agreement.faithfulness(*pair)


def test_what_is_no_confidence_is_refused():
    with pytest.raises(ValueError, match=r"a confidence is not in \[0, 1\]"):
        agreement.faithfulness([0.5], [float("nan")])


def test_notes_compare_equal_questions_of_equal_methods():
    one, other = entry("LC RL"), entry("LC RL", judge="anthropic/claude-haiku-4-5")
    changed = [{**row, "chosen": "K2"} if i < 10 else row for i, row in enumerate(other.records)]
    other = dataclasses.replace(other, records=changed)
    (note,) = agreement.judge_notes([one, other, entry("LC SFT", judge="another")])
    assert note == (
        "LC RL: openai/gpt-4.1 and anthropic/claude-haiku-4-5 give 100.0% of 110 equal answers the same verdict, "
        "Cohen's kappa 1.00"
    )
    assert agreement.judge_notes([one, entry("LC RL", seed=1, judge="another")]) == []
    (note,) = agreement.intrinsic_notes([one, entry("samples", seed=0)], "samples")
    assert note == (
        "LC RL, seed 0: stated confidence differs from that of 'samples' by 0.000 on average, correlation 1.00, "
        "cMFG 1.000 (n = 119)"
    )
    assert agreement.intrinsic_notes([one], "samples") == agreement.intrinsic_notes([one], "") == []
