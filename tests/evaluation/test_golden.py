"""The frames of the published evaluation, through our own reading and in reference mode."""

import numpy as np
import pytest

from lc_jax.evaluation import intervals, metrics, qa
from lc_jax.llm.annotate import Annotation
from lc_jax.prompts import Invalid, equivalence
from lc_jax.prompts.equivalence import Comparison
from lc_jax.prompts.parsing import first_paragraph, parse_list
from lc_jax.types import Generation, Question
from tests.recorded import load


def read(frame):
    """Our record of every question of a frame of forecasts, in the order in which the questions are first met.

    The first row of a question is that of its true answer, the others are extracted answers.
    """
    rows = {}
    columns = ("ground_truth_top_answer", "interpretation__forecast_probs")
    for question_id, *row in zip(frame["question_id"], *(frame[name] for name in columns), strict=True):
        rows.setdefault(question_id, []).append(row)
    records = []
    for question_id, ((truth, _), *extracted) in rows.items():
        answers = [(answer, float("nan") if prob is None else prob) for answer, prob in extracted if answer is not None]
        extraction = Annotation("ok", [answer for answer, _ in answers])
        forecasts = [Annotation("ok", prob) for _, prob in answers]
        records.append(qa.choose(Generation(Question(question_id, "", "", truth), ""), extraction, forecasts))
    return records


def test_confidence_frames(golden):
    cases = load(golden / "ece.json")["get_metrics_for_confidence_baseline"]
    assert len(cases) == 5
    for case in cases:
        records = read(case["forecast_probs_df"])
        answers, probs = case["argmax"]["result"][:2]
        assert [record.chosen or None for record in records] == answers, case["note"]
        np.testing.assert_equal([r.confidence if r.chosen else None for r in records], probs)
        verdicts = case["semantic_equivalence_df"]["interpretation__semantic_equivalence"]
        if "raises" in case:
            assert len(verdicts) != len(records)
            continue
        correct = np.array([bool(r.chosen) and v == "Yes" for r, v in zip(records, verdicts, strict=True)])
        confidence = np.array([record.confidence for record in records])
        result, random = case["result"], np.random.RandomState(case["np_random_seed"])
        np.testing.assert_equal(confidence, np.array(result["confidence_arr"], float))
        assert correct.tolist() == list(result["binary_correctness_arr"])
        assert correct.mean() == pytest.approx(result["accuracy"], abs=1e-9)
        assert metrics.ece(confidence, correct, reference=True) == pytest.approx(float(result["ece"]), abs=1e-9)
        for name, low, high in (("accuracy", "ci_lower", "ci_upper"), ("ece", "ece_lower", "ece_upper")):
            ends = intervals.reference(name, confidence, correct, random)
            assert ends == pytest.approx((float(result[low]), float(result[high])), abs=1e-9)


def test_frames_without_confidence(golden):
    for case in load(golden / "ece.json")["get_metrics_for_non_confidence_baseline"]:
        texts = case["extract_answers_df"]["interpretation__answer_extraction"]
        verdicts = case["semantic_equivalence_df"]["interpretation__semantic_equivalence"]
        if "raises" in case:
            with pytest.raises(ValueError, match=r"not a literal|shorter|longer"):
                [parse_list(text) for text, _ in zip(texts, verdicts, strict=True) if isinstance(text, str)]
            continue
        answers = [parse_list(text) if isinstance(text, str) else [] for text in texts]
        correct = np.array([bool(a) and v == "Yes" for a, v in zip(answers, verdicts, strict=True)])
        confidence, result = np.ones(len(correct)), case["result"]
        assert correct.tolist() == result["correctness_arr"].tolist()
        assert metrics.ece(confidence, correct) == pytest.approx(float(result["ece"]), abs=1e-9)
        low, high = intervals.reference("accuracy", confidence, correct, np.random.RandomState(case["np_random_seed"]))
        published = [float(result[name]) for name in ("ci_lower", "ci_upper", "ece_lower", "ece_upper")]
        assert [low, high, 1 - high, 1 - low] == pytest.approx(published, abs=1e-9)


def test_what_is_judged(golden):
    recorded = load(golden / "eval_pipeline.json")
    for case in recorded["preprocess_prob_forecast_df_for_semantic_equivalence_check"]:
        if case.get("raises"):
            continue  # probabilities that are None: published code stops, here such answers have no forecast
        records, expected = read(case["df"]), case["result"]["rows"]
        assert [record.question_id for record in records] == expected["question_id"], case["note"]
        assert [record.chosen or None for record in records] == expected["generated_paragraph"], case["note"]


def test_batched_verdicts(golden):
    """Nine verdicts for ten questions shifted the published rows; here they are no reply."""

    def fields(count):
        return {"comparisons": equivalence.join_comparisons([Comparison("Q?", "a", "b")] * count)}

    whole, short, junk = load(golden / "eval_pipeline.json")["semantic_equivalence_batched"]
    verdicts = [
        equivalence.PROMPT.parse(text, fields(count)) for text, count in zip(whole["completions"], (10, 2), strict=True)
    ]
    assert [("No", "Yes")[v] for batch in verdicts for v in batch] == whole["result"]["interpretation"]
    for text in (short["completions"][0], junk["completions"][0]):
        with pytest.raises(Invalid):
            equivalence.PROMPT.parse(text, fields(10))


def test_paragraphs_of_base_models_end_at_a_blank_line(golden):
    case = load(golden / "eval_pipeline.json")["postprocess_fewshot_icl_evaluation"]
    texts, expected = (case[side]["generated_paragraph"] for side in ("df",)), case["result"]["rows"]
    for text, published in zip(next(texts), expected["generated_paragraph"], strict=True):
        if not text.startswith("\n\n"):  # ours skips blank lines before the paragraph
            assert first_paragraph(text) == published
