"""Replies of models that reason aloud or decorate their verdicts: the answer is read, the reasoning is not."""

import pytest

from lc_jax.prompts import Invalid, Prompt, Truncated, confidence, correctness, equivalence, extract, forecast, support
from lc_jax.prompts import paragraph as paragraphs
from lc_jax.prompts.parsing import strip_reasoning
from lc_jax.types import Reply
from tests.llm.asking import Scripted, annotate

THOUGHTS = "Okay, the user wants the answers. The paragraph says Danube; maybe others.\n\nLet me count.\n"
ONE = {"comparisons": equivalence.join_comparisons([equivalence.Comparison("Which river?", "Danube", "the Danube")])}
TWO = {"comparisons": "\n".join([ONE["comparisons"]] * 2)}

# Every form in which a server leaves reasoning in the text of a reply; {} is the answer.
FORMS = [
    f"<think>\n{THOUGHTS}</think>\n\n{{}}",
    f"<think>{THOUGHTS}</think>{{}}",
    f"  <THINK>{THOUGHTS}</THINK> {{}}",
    f"<thinking>{THOUGHTS}</thinking>\n{{}}",
    f"<thought>{THOUGHTS}</thought>\n{{}}",
    f"<reasoning>{THOUGHTS}</reasoning>\n{{}}",
    f"[THINK]{THOUGHTS}[/THINK]{{}}",
    f"{THOUGHTS}</think>\n\n{{}}",
    "<think>\n\n</think>\n\n{}",
    "<think>one</think>\n<think>two</think>\n{}",
    "<think>It says <think>so</think>, I see.</think>\n\n{}",
    "<think>It quotes <think> alone.</think>\n\n{}",
    "<|channel|>analysis<|message|>" + THOUGHTS + "<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "<|channel|>analysis<|message|>" + THOUGHTS + "<|end|><|start|>assistant<|channel|>final <|message|>{}",
]


@pytest.mark.parametrize("form", FORMS)
def test_reasoning_is_no_part_of_the_answer(form):
    assert extract.PROMPT.parse(form.format("Danube")) == ["Danube"]
    assert forecast.PROMPT.parse(form.format("0.8")) == 0.8
    assert equivalence.PROMPT.parse(form.format("1. yes"), ONE) == [True]
    assert correctness.PROMPT.parse(form.format("1")) == 1
    assert support.PROMPT.parse(form.format("Not supported")) is False
    assert paragraphs.PROMPT.parse(form.format("It is long.")) == "It is long."
    assert extract.PROMPT.parse(form.replace("{}", '{"answers": ["Danube"]}')) == ["Danube"]
    with pytest.raises(Invalid, match="no answer follows the reasoning"):
        extract.PROMPT.parse(form.format(""))


@pytest.mark.parametrize(
    "reply",
    [
        "<think>\nOkay, 0.8",
        "<thinking>a</think> 0.8",
        "<think>a</think><think>0.8",
        "<|channel|>analysis<|message|>0.8",
    ],
)
def test_reasoning_without_an_end_is_truncated_and_not_asked_again(reply):
    assert strip_reasoning(reply) is None
    with pytest.raises(Truncated):
        forecast.PROMPT.parse(reply)

    rows = [{"generated_paragraph": "p", "question": "q", "answer": "a"}]
    (annotation,) = annotate(Scripted(lambda request: Reply("ok", reply)), forecast.PROMPT, rows)
    assert (annotation.status, annotation.value) == ("truncated", None)


@pytest.mark.parametrize(
    "text",
    [
        "The tags <think> and </think> enclose it.",
        "It ends with `</think>`; it begins with `<think>`",
        "a < b </thinks> c",
        "He said: think </b> twice",
        "",
    ],
)
def test_tags_that_an_answer_speaks_of_stay(text):
    assert strip_reasoning(text) == text
    assert Prompt("{x}").parse(text) == text


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        ("**Danube**", ["Danube"]),
        ("Answer: **Danube**", ["Danube"]),
        ("**Answer:** Danube", ["Danube"]),
        ("**Final Answer:** Danube; Sava", ["Danube", "Sava"]),
        ("The paragraph names one river.\n\n**Final answer:** Danube", ["Danube"]),
        ("### Final Answer\n\nDanube", ["Danube"]),
        ("The final answer is: $\\boxed{\\text{Danube}}$", ["Danube"]),
        ("<answer>Danube</answer>", ["Danube"]),
        ("`Danube`; *Sava*", ["Danube", "Sava"]),
        ("```\nDanube\n```", ["Danube"]),
        ("M*A*S*H; 2**8; **Danube**", ["M*A*S*H", "2**8", "Danube"]),
        ("**No Answer**", []),
        ('["`0`", "*a", "b*"]', ["`0`", "*a", "b*"]),
        ('Answers: ["`0`"]', ["`0`"]),
    ],
)
def test_decorated_answers(reply, answers):
    assert extract.PROMPT.parse(reply) == answers


@pytest.mark.parametrize(
    ("reply", "probability"),
    [("**0.8**", 0.8), ("**Probability:** 80%", 0.8), ("Answer: 0.8", 0.8), ("Final answer: **80%**", 0.8)]
    + [
        ("$\\boxed{0.8}$", 0.8),
        ("`0.8`", 0.8),
        ("0,8", 0.8),
        ("80 percent", 0.8),
        ("80 per cent.", 0.8),
        ("12,5 %", 0.125),
    ]
    + [
        ("8/10", 0.8),
        ("8 out of 10", 0.8),
        ('{"probability": "80%"}', 0.8),
        ("So it is likely.\n\nFinal answer: 0.8", 0.8),
    ]
    + [
        (bad, None)
        for bad in ("1,000", "11/10", "8/0", "0/0", "80", "-0.8", "0.8 or 0.9", "80 percentage", "8%/10", "**", "1,5")
    ],
)
def test_numbers_as_people_write_them(reply, probability):
    if probability is None:
        with pytest.raises(Invalid):
            forecast.PROMPT.parse(reply)
    else:
        assert forecast.PROMPT.parse(reply) == pytest.approx(probability, abs=1e-12)


@pytest.mark.parametrize(
    "reply",
    [
        "**yes**",
        "Yes.",
        "YES",
        "1. **Yes**",
        "**1. yes**",
        "Verdict: yes",
        "**Final answer:** yes",
        "Answer: **Yes**",
        "- yes",
        "```\n1. yes\n```",
        "Verdicts:\n\n1. yes\n\nThat is all.",
    ],
)
def test_decorated_verdicts(reply):
    assert equivalence.PROMPT.parse(reply, ONE) == [True]
    for wrong in ("yesterday", "not yes", "no way", "Norway", "know", "yes/no", "2. yes"):
        with pytest.raises(Invalid):
            equivalence.PROMPT.parse(wrong, ONE)


def test_verdicts_may_stand_apart():
    assert equivalence.PROMPT.parse("1. **yes**\n\n2. **no**", TWO) == [True, False]
    assert equivalence.PROMPT.parse("- yes\n- no\n\nThe second differs.", TWO) == [True, False]


def test_other_verdicts_in_bold():
    assert [correctness.PROMPT.parse(reply) for reply in ("**1**", "**Verdict:** 0", "Yes.", "FALSE")] == [1, 0, 1, 0]
    assert [support.PROMPT.parse(reply) for reply in ("**Supported**", "**Verdict:** Not Supported.")] == [True, False]
    steps = "**Core Claim:** She sang.\n**Classification:** Direct\n"
    assert confidence.PROMPT.parse(steps, {"statements": "Statement 1: She sang."}) == [("She sang.", 1.0)]
    for wrong in ("incorrectly", "10", "yes and no"):
        with pytest.raises(Invalid):
            correctness.PROMPT.parse(wrong)
