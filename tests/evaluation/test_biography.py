"""Records of biographies by hand, and the frames of the published evaluation through them."""

import asyncio
import dataclasses
import math

import numpy as np
import pytest

from lc_jax.evaluation import biography, intervals, metrics, summary
from lc_jax.evaluation.biography import Biography
from lc_jax.llm.annotate import Annotation
from lc_jax.prompts import claims, confidence, summarize
from lc_jax.prompts.confidence import Stated
from tests.recorded import load

# Ada: five groups (two alternatives, an opinion); Bela makes no claim, Cleo only says not to know one.
DECOMPOSED = {
    "Ada": [
        [("Probably Ada sang.", "Objective")],
        [("Ada was born in 1815 (30%).", "Objective"), ("Ada was born in 1816 (70%).", "Objective")],
        [("Ada was great.", "Subjective")],
        [("Perhaps Ada was good.", "Subjective"), ("Ada swam.", "Objective")],
        [("Ada flew (70%).", "Objective"), ("Ada walked (70%).", "Objective")],
    ],
    "Bela": [],
    "Cleo": [[("I do not know Cleo.", "Full Uncertainty")]],
    "Dora": [[("Dora ran.", "Objective")]],
}
STATED = {
    "Probably Ada sang.": Stated("Ada sang.", 0.75),
    "Ada was born in 1815 (30%).": Stated("Ada was born in 1815.", 0.3),
    "Ada was born in 1816 (70%).": Stated("Ada was born in 1816.", 0.7),
    "Ada flew (70%).": Stated("Ada flew.", 0.7),
    "Ada walked (70%).": Stated("Ada walked.", 0.7),
}
TRUE = {"Ada sang.", "Ada was born in 1815.", "Ada swam.", "Ada flew.", "Dora ran."}


class Answers:
    """Answers the steps from the tables above; `bad` gives a claim's or an entity's request another status."""

    def __init__(self, decomposed=DECOMPOSED, confidences=STATED, true=TRUE, bad=None):
        self.decomposed, self.confidences, self.true, self.bad = decomposed, confidences, true, bad or {}
        self.requests, self.lookups = [], []

    def find(self, entity, texts):
        self.lookups += [(entity, claim) for claim in texts]
        return [[f"Page of {entity}.", claim] for claim in texts]

    async def ask(self, step, fields):
        self.requests.append((step, dict(fields)))
        bad = next((v for (s, part), v in self.bad.items() if s == step and part in str(fields)), None)
        return bad or Annotation("ok", self.value(step, fields))

    def value(self, step, fields):
        if step in ("claims", "plain_claims"):
            groups = self.decomposed[fields["entity"]]
            return [[claims.Claim(*claim) for claim in group] for group in groups]
        if step == "confidence":
            texts = confidence.split_statements(fields["statements"])
            return [self.confidences.get(text, Stated(text, 1.0)) for text in texts]
        assert summarize.split_paragraphs(fields["passages"])[1] == fields["claim"]
        return fields["claim"] in self.true

    def records(self, uses_confidence=True):
        biographies = [Biography(name, f"Write about {name}.", f"Text on {name}.") for name in self.decomposed]
        options = {"find": self.find, "ask": self.ask, "uses_confidence": uses_confidence}
        return [r for one in biographies for r in asyncio.run(biography.evaluate_one(one, **options))]


def test_of_alternatives_the_most_confident_one_counts():
    answers = Answers()
    records = answers.records()
    assert [(r.question_id, r.status, r.chosen, r.correct) for r in records] == [
        ("Ada/1", "ok", "Ada sang.", True),
        ("Ada/2", "ok", "Ada was born in 1816.", False),
        ("Ada/3", "not_objective", "", None),
        ("Ada/4", "ok", "Ada swam.", True),
        ("Ada/5", "ok", "Ada flew.", True),  # the first of equals
        ("Bela", "no_claims", "", None),
        ("Cleo/1", "not_objective", "", None),
        ("Dora/1", "ok", "Dora ran.", True),
    ]
    assert [r.confidence for r in records if r.status == "ok"] == [0.75, 0.7, 1.0, 0.7, 1.0]
    assert all(math.isnan(r.confidence) for r in records if r.status != "ok")
    born = records[1]
    assert born.question == "Ada was born in 1816 (70%)."
    assert (born.answers, born.probs) == (("Ada was born in 1815.", "Ada was born in 1816."), (0.3, 0.7))
    assert [tuple(claim) for claim in born.claims] == DECOMPOSED["Ada"][1]
    assert (born.answer, born.paragraph, born.entity) == ("not supported", "Text on Ada.", "Ada")
    assert [claim for _, claim in answers.lookups] == [r.chosen for r in records if r.chosen]  # no loser is paid for
    statements = [fields["statements"] for step, fields in answers.requests if step == "confidence"]
    assert len(statements) == 2  # not of those who make no objective claim
    assert "great" not in statements[0] + "good" not in statements[0]


def test_without_confidence_the_first_alternative_counts_for_certain():
    answers = Answers()
    records = [r for r in answers.records(uses_confidence=False) if r.status == "ok"]
    assert {step for step, _ in answers.requests} == {"plain_claims", "support"}
    assert [r.chosen for r in records[:2]] == ["Probably Ada sang.", "Ada was born in 1815 (30%)."]
    assert {r.confidence for r in records} == {1.0}


def test_figures_by_hand():
    records = Answers().records()
    result = biography.factscore(records)
    penalty = math.exp(1 - 10 / 4), math.exp(1 - 10 / 1)
    assert result == biography.FActScore(
        num_biographies=4,
        respond_ratio=0.5,
        claims_per_biography=2.5,
        factscore=pytest.approx((3 / 4 + 1) / 2),
        factscore_penalized=pytest.approx((3 / 4 * penalty[0] + penalty[1]) / 2),
        num_repeated=0,
        precision=pytest.approx((3 / 4 + 1) / 2),
        recall_at_k=pytest.approx((3 + 1 + 0 + 0) / 32 / 4),
        f1_at_k=pytest.approx((2 * 3 / (4 + 32) + 2 / (1 + 32)) / 4),  # 2 S / (claims + K)
    )
    assert "4 biographies, 50.0% of which make claims, 2.5 each on average; FActScore 0.875" in result.sentence()
    unread = [biography.whole(Biography("E", "", ""), status) for status in ("unverifiable", "refused", "failed")]
    assert biography.factscore([*records, *unread]) == result
    nothing = biography.factscore(unread)
    assert nothing.num_biographies == 0
    assert math.isnan(nothing.factscore)


def test_long_biographies_are_not_penalised():
    decomposed = {"Ada": [[(f"Ada did {i}.", "Objective")] for i in range(12)]}
    result = biography.factscore(Answers(decomposed, true={f"Ada did {i}." for i in range(6)}).records())
    assert result.factscore == result.factscore_penalized == 0.5


def test_a_repeated_claim_counts_once_and_a_long_biography_is_complete():
    """Forty distinct supported claims and sixty times that Ada is a person, in other letters and articles."""
    texts = [f"Ada did {i}." for i in range(40)] + ["Ada is a person.", "ada is the person", "Ada is person!"] * 20
    result = biography.factscore(
        Answers({"Ada": [[(text, "Objective")] for text in texts]}, true=set(texts[:40])).records()
    )
    assert result.num_repeated == 59
    assert result.factscore == pytest.approx(0.4)
    assert result.precision == pytest.approx(40 / 41)
    assert result.recall_at_k == 1
    assert result.f1_at_k == pytest.approx(2 * 40 / 41 / (40 / 41 + 1))
    assert "59 repeated claims counted once: recall at 32 1.000, F1 at 32 0.988" in result.sentence()


@pytest.mark.parametrize("status", ["invalid", "refused", "truncated", "failed"])
def test_what_could_not_be_annotated_is_a_status(status):
    bad = {
        ("claims", "Bela"): Annotation(status, detail="of all"),
        ("confidence", "Dora"): Annotation(status, detail="of two"),
        ("support", "Ada sang"): Annotation(status, detail="of one"),
    }
    records = Answers(bad=bad).records()
    details = {r.question_id: r.detail for r in records if r.status == status}
    assert details == {"Bela": "of all", "Dora/1": "of two", "Ada/1": "of one"}
    assert all(math.isnan(r.confidence) and not r.correct for r in records if r.status == status)
    result = biography.factscore(records)
    assert (result.num_biographies, result.respond_ratio) == (3, pytest.approx(2 / 3))  # Ada, Cleo, Dora
    assert result.factscore == pytest.approx(2 / 3)  # of Ada: two of the three that were judged
    assert result.recall_at_k == pytest.approx((2 / 32 + 0) / 2)  # of Ada and Cleo; Dora's claim could not be judged


def test_no_biography_at_all():
    assert Answers({}).records() == []


def test_intervals_resample_biographies():
    """Claims of a biography that are all alike make the interval wide, however many they are."""
    clusters = np.repeat([f"b{i}" for i in range(20)], 30)
    right = np.repeat(np.arange(20) % 2 == 0, 30)
    alike = summary.summarize(np.full(600, 0.5), right, clusters=clusters, num_bins=40)
    alone = summary.summarize(np.full(600, 0.5), right, num_bins=40)
    assert alike.num_bins == 40
    assert alike.accuracy_high - alike.accuracy_low > 4 * (alone.accuracy_high - alone.accuracy_low)


def published(frame, stated_column, verdict_column):
    """Answers to our steps from a recorded frame."""
    decomposed, confidences, true = {}, {}, set()
    for i, entity in enumerate(frame["entity"]):
        groups = claims.PROMPT.parse(frame["interpretation__claim_decomposition"][i])
        decomposed[entity] = [[(f"{entity} {c.text}", c.label) for c in group] for group in groups]
        objective = [text for group in decomposed[entity] for text, label in group if label == claims.OBJECTIVE]
        if stated_column:
            for text, row in zip(objective, parse(frame[stated_column][i]), strict=True):
                prob = 1.0 if row["classification"] == "Direct" else row["probability"]
                confidences[text] = Stated(text, prob)
        verdicts = parse(frame[verdict_column][i])
        true |= {t for t, v in zip(objective, verdicts, strict=True) if v["Final Answer"] == "Supported"}
    return Answers(decomposed, confidences, true)


def parse(text):
    return claims.leading_list(text)


def test_published_frames_with_confidence(golden):
    cases = load(golden / "ece.json")["get_metrics_for_factscore_confidence_results"]
    columns = ("interpretation__claim_uncertainty_filter", "interpretation__uncertainty_fact_checker")
    whole, coarse, *broken = cases
    scored = [r for r in published(whole["df"], *columns).records() if r.status == "ok"]
    right, sure = np.array([r.correct for r in scored]), np.array([r.confidence for r in scored])
    for case, num_bins in ((whole, 40), (coarse, 7)):
        result = case["result"]
        np.testing.assert_equal(right, result["pooled_correctness_arr"])
        np.testing.assert_equal(sure, result["pooled_confidence_arr"])
        error = metrics.ece(sure, right, num_bins, reference=True)
        assert error == pytest.approx(float(result["pooled_ece"]), abs=1e-9)
        assert right.mean() == pytest.approx(result["pooled_proportion_supported"], abs=1e-9)
        assert biography.factscore(scored).factscore == pytest.approx(float(result["avg_proportion_supported"]))
        random = np.random.RandomState(case["np_random_seed"])
        for name, field in (("accuracy", "pooled_proportion_supported"), ("ece", "pooled_ece")):
            ends = [float(result[f"{field}_ci_{end}"]) for end in ("lower", "upper")]
            assert intervals.reference(name, sure, right, random) == pytest.approx(ends, abs=1e-9)
    # Too few verdicts or confidences stop the published code, as they do this test's own reading of the frame.
    for case in broken[:2]:
        assert "raises" in case
        with pytest.raises(ValueError, match=r"shorter|longer"):
            published(case["df"], *columns)
    # A biography without an objective claim stops it as well; here it is a status.
    without = published(broken[2]["df"], *columns).records()
    assert broken[2]["raises"] == "ZeroDivisionError"
    assert without[0].status == "not_objective"
    assert biography.factscore(without).respond_ratio == 0.9


def test_published_frames_without_confidence(golden):
    case = load(golden / "ece.json")["get_metrics_for_factscore_nonconfidence_results"][0]
    records = published(case["df"], None, "interpretation__fact_checker").records(uses_confidence=False)
    right, result = np.array([r.correct for r in records]), case["result"]
    assert right.mean() == pytest.approx(result["pooled_proportion_supported"], abs=1e-9)
    assert metrics.ece(np.ones(len(right)), right, 40) == pytest.approx(float(result["pooled_ece"]), abs=1e-9)
    assert biography.factscore(records).factscore == pytest.approx(float(result["avg_proportion_supported"]))
    low, high = intervals.reference(
        "accuracy", np.ones(len(right)), right, np.random.RandomState(case["np_random_seed"])
    )
    fields = ("pooled_proportion_supported_ci_lower", "pooled_proportion_supported_ci_upper")
    assert (low, high) == pytest.approx([float(result[name]) for name in fields], abs=1e-9)


def test_a_record_can_be_written(tmp_path):
    from lc_jax.data import jsonl

    records = Answers().records()
    jsonl.write_jsonl(tmp_path / "r.jsonl", map(dataclasses.asdict, records))
    row = jsonl.read_jsonl(tmp_path / "r.jsonl")[1]
    assert row["claims"] == [list(claim) for claim in DECOMPOSED["Ada"][1]]
