"""The replies about biographies: our form, the published forms, and what is neither."""

import json

import pytest

from lc_jax.prompts import Invalid, biography, claims, confidence, published, support
from lc_jax.prompts.claims import Claim
from lc_jax.prompts.confidence import Stated
from tests.prompts.examples import examples
from tests.recorded import load

A, B, C = Claim("a b", "Objective"), Claim("c", "Objective"), Claim("d", "Full Uncertainty")
OURS = [[{"claim": "a\n b", "label": "Objective"}], [{"claim": "c", "label": "objective"}, ["d", "Full Uncertainty"]]]


@pytest.mark.parametrize(
    ("reply", "groups"),
    [
        (json.dumps(OURS), [[A], [B, C]]),
        (f"```json\n{json.dumps(OURS)}\n```\nThese are all.", [[A], [B, C]]),
        (json.dumps({"claims": OURS}), [[A], [B, C]]),
        (json.dumps({"reasoning": "...", "claims": []}), []),
        ('[("""a b""", "Objective"), [("c", "Objective"), ("""d""", "Full Uncertainty"),],]', [[A], [B, C]]),
        ('### Decomposition 9\n[\n("""a b""", "Objective")]', [[A]]),
        ('{"""a b""": "Objective", "c": "Objective",}', [[A], [B]]),
        ('[[{"claim": " ", "label": "Objective"}], [], ["c", "Objective"]]', [[B]]),
        ("[]", []),
        (" {} ", []),
        ("[[[{}]]]", None),
        ('[[["a", "Objective"], [["c", "Objective"]]]]', None),
        ('[["a", "Other"]]', None),
        ('["a", "Objective"]', None),
        ('{"a": 1}', None),
        ("[__import__('os').getcwd()]", None),
        ("[f'{1}']", None),
        (r'[["\ud800", "Objective"]]', None),
        ("None.", None),
        ("", None),
    ],
)
def test_claims(reply, groups):
    if groups is None:
        with pytest.raises(Invalid):
            claims.PROMPT.parse(reply)
    else:
        assert claims.PROMPT.parse(reply) == groups


WORKED = """Statement 1: I am 60% sure that Ada sang.
[Step 1] Core Claim: Ada sang.
[Step 2] Statement and Core Claim are the Same: False
Classification: Numerical Uncertainty
Probability: 0.60

Statement 2: Ada swam.
[Step 1] Core Claim: Ada swam.
[Step 2] Statement and Core Claim are the Same: True
Classification: Direct
"""
GOOD = [{"claim": "Ada sang.", "probability": 0.6}, {"claim": "Ada\nswam.", "probability": "100%"}]


@pytest.mark.parametrize(
    ("reply", "valid"),
    [
        (json.dumps(GOOD), True),
        (json.dumps({"claims": GOOD}), True),
        (WORKED, True),
        (json.dumps(GOOD[:1]), False),
        (json.dumps([*GOOD, GOOD[0]]), False),
        (json.dumps([GOOD[0], {"claim": "Ada swam."}]), False),
        (json.dumps([GOOD[0], {"claim": "Ada swam.", "probability": 1.8}]), False),
        (json.dumps([GOOD[0], {"claim": "Ada swam.", "probability": float("nan")}]), False),
        (json.dumps([GOOD[0], {"claim": " ", "probability": 1}]), False),
        (json.dumps([GOOD[0], "Ada swam."]), False),
        ("Classification: Direct\n" + WORKED, False),
        (WORKED.replace("Probability: 0.60", ""), False),
        ('{"Ada sang.": 0.6}', False),
        ("0.6\n1", False),
        ("[]", False),
    ],
)
def test_confidences_of_two_statements(reply, valid):
    fields = {"statements": confidence.join_statements(["I am 60% sure that Ada sang.", "Ada swam."])}
    if valid:
        assert confidence.PROMPT.parse(reply, fields) == [Stated("Ada sang.", 0.6), Stated("Ada swam.", 1.0)]
    else:
        with pytest.raises(Invalid):
            confidence.PROMPT.parse(reply, fields)


def test_statements_are_numbered_lines():
    texts = ["One.", "Statement 7: {x}", "Three \u2028 or so"]
    assert confidence.split_statements(confidence.join_statements(texts)) == texts


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Supported", True),
        ('{"supported": false}', False),
        (" not supported.", False),
        ("Verdict: Supported\n\nAs it says.", True),
    ]
    + [('{"verdict": "Not supported"}', False), ('{"reasons": "...", "Final Answer": "True"}', True)]
    + [(bad, None) for bad in ("untrue", "Supported or not", "", "Irrelevant", "{}", "unsupported")],
)
def test_support(reply, verdict):
    if verdict is None:
        with pytest.raises(Invalid):
            support.PROMPT.parse(reply)
    else:
        assert support.PROMPT.parse(reply) is verdict


def test_examples_are_in_the_form_that_is_asked_for():
    for prompt in (claims.PROMPT, confidence.PROMPT, support.PROMPT):
        for fields, reply in examples(prompt):
            prompt.parse(reply, fields)
    assert biography.PROMPT.render(entity="Ada Lovelace") == "Write a paragraph bio about Ada Lovelace."


def objective(reply):
    return [claim.text for group in claims.PROMPT.parse(reply) for claim in group if claim.label == claims.OBJECTIVE]


def test_the_published_forms(golden):
    """The published code reads the same objective claims; what it stops at is an invalid reply here."""
    recorded = load(golden / "eval_pipeline.json")["bio"]
    decompositions = recorded["preprocess_uncertainty_claims_for_lu_filtering"]
    for case in decompositions:
        for text, expected in zip(case["input"], case.get("result", [[]])[0], strict=False):
            assert objective(text if isinstance(text, str) else repr(text)) == expected
    for text in ("[('a', 'Other')]", "{'a': 1}"):
        assert any(case["input"] == [text] and "raises" in case for case in decompositions)
        with pytest.raises(Invalid):
            claims.PROMPT.parse(text)
    plain = recorded["preprocess_deterministic_claims_for_fact_checking"][0]
    assert objective(repr(plain["input"][1])) == [claim for claim, _ in plain["result"][0][1]]
    filtered = recorded["preprocess_uncertainty_claims_for_fact_checking"][0]
    assert [claim for claim, _ in filtered["result"][0][0]] == ["a", "b"]


def test_the_published_wordings_take_our_place(tmp_path):
    folder = tmp_path / "biography_generation_eval"
    folder.mkdir()
    path = tmp_path / published.FILES["confidence"]
    path.write_text("Human: {{\n}}\n{claims_list}\n\nAssistant: Statement 1:")
    theirs = published.override(tmp_path, "confidence", confidence.PROMPT)
    assert theirs.render(statements="Statement 1: x") == "{\n}\nStatement 1: x"
    (tmp_path / published.FILES["plain_claims"]).write_text("{entity}: {generated_paragraph}\nAssistant:\n### 9\n{{\n")
    assert published.override(tmp_path, "plain_claims", claims.PROMPT).parse('{"a b": "Objective"}') == [[A]]
    assert published.override(tmp_path, "claims", claims.PROMPT) is claims.PROMPT
