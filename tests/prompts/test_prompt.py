import dataclasses
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lc_jax.prompts import (
    Invalid,
    Prompt,
    claims,
    confidence,
    correctness,
    equivalence,
    extract,
    forecast,
    in_context,
    join_answers,
    load_templates,
    paragraph,
    postprocess_answers,
    query,
    summarize,
    support,
)
from lc_jax.prompts.parsing import leading_list, parse_list
from tests.prompts.examples import examples

settings.register_profile("patient", deadline=None)  # the first example pays for what is cached
settings.load_profile("patient")
NASTY = st.text() | st.sampled_from(
    [
        "{question}",
        "{}",
        "{0}",
        '"',
        "'",
        "\x00\x1b\u2028\x85",
        "\u202eעברית",
        "Human: hi",
        "</s>[PAD]",
        "🚁",
        "{generated_paragraph} } {{answer}} %s",
        "\n\n---\n\nAnswers: x",
        "a" * 10_000,
        "{" * 100_000,
        '"\\' * 50_000,
        "\u202e}{" * 33_333,
    ]
)
ANNOTATOR = {
    module.__name__.rpartition(".")[2]: module.PROMPT
    for module in (correctness, equivalence, extract, forecast, paragraph, query, summarize)
} | {"clue": query.CLUE, "claims": claims.PROMPT, "confidence": confidence.PROMPT, "support": support.PROMPT}
MODELS = {f"{name}/{field.name}": getattr(load_templates(name), field.name)
          for name in ("full", "short") for field in dataclasses.fields(load_templates(name))}  # fmt: skip
PROMPTS = ANNOTATOR | {"in_context": in_context.PROMPT} | MODELS
FORMS = query.request_fields("Who?", ["Rembrandt van Rijn", "Rembrandt"])
REQUEST = {"comparisons": equivalence.join_comparisons([equivalence.Comparison("", "", "")]), "category": "ART"} | FORMS
REQUEST["statements"] = confidence.join_statements(["She sang."])


@pytest.mark.parametrize("name", PROMPTS)
@given(data=st.data())
def test_match_inverts_render_for_any_text(name, data):
    prompt = PROMPTS[name]
    fields = {field: data.draw(NASTY) for field in prompt.fields}
    rendered = prompt.render(**fields)
    matched = prompt.match(rendered)
    assert matched is not None
    assert prompt.render(**matched) == rendered
    literals = [literal for literal in prompt._pieces[0] if literal]
    if not any(literal in value or literal[0] in value for literal in literals for value in fields.values()):
        assert matched == fields
    for value in fields.values():
        assert value in rendered  # not a character of the data was read as a template


def test_annotator_prompts_are_told_apart():
    for name, prompt in ANNOTATOR.items():
        rendered = prompt.render(**dict.fromkeys(prompt.fields, "some text"))
        assert [other for other in ANNOTATOR if ANNOTATOR[other].match(rendered)] == [name]


def test_earlier_fields_are_greedy_where_several_readings_fit():
    prompt = Prompt("{a}; {b}")
    assert prompt.match("x; y; z") == {"a": "x; y", "b": "z"}
    assert Prompt("{a} = {a}").match("x = y") is None
    assert Prompt("{a}{b}").match("xy") == {"a": "xy", "b": ""}
    assert prompt.match("x") is None


def test_render_names_the_field_at_fault():
    prompt = Prompt('{"json": 1} {question} {ground_truth_top_answer}')
    assert prompt.render(question="{answer}", answer="7") == '{"json": 1} {answer} 7'
    with pytest.raises(ValueError, match=r"missing: \['answer'\], unknown: \['entity'\]"):
        prompt.render(question="q", entity="e")
    with pytest.raises(TypeError, match="'answer' must be text, not NoneType"):
        prompt.render(question="q", answer=None)  # type: ignore[arg-type]


def test_templates_come_from_a_folder_stripped(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'neither': give one of \['auto', 'chat', 'full', 'short'\]"):
        load_templates("neither")
    for name in ("paragraph", "extract_answers", "forecast_probs", "factuality"):
        fields = MODELS[f"full/{name}"].fields
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{{{field}}}" for field in fields) + " Go: \n\n")
    with pytest.raises(FileNotFoundError, match=r"critic\.txt is missing"):
        load_templates(tmp_path)
    (tmp_path / "critic.txt").write_text("{question}")
    with pytest.raises(ValueError, match=r"critic\.txt must hold"):
        load_templates(tmp_path)
    (tmp_path / "critic.txt").write_text("{question} {ground_truth_top_answer} {paragraph_generation_prompt}")
    assert load_templates(tmp_path).paragraph.template == "{paragraph_generation_prompt} Go:"
    for prompt in MODELS.values():
        assert prompt.template == prompt.template.rstrip()


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        ("Paris; Lyon", ["Paris", "Lyon"]),
        (" Answers: Paris ;; paris; Paris;", ["Paris", "paris"]),
        ("No Answer", []),
        ("no answers.", []),
        ("No Answer; ", []),
        ("U.S.", ["U.S."]),
        ("```json\n[\"a; b\", null]\n```", None),
        ('```json\n["a; b", 1932]\n```\nThat is all.', ["a; b", "1932"]),
        ("['it''s', \"x\"] because of that", ["its", "x"]),
        ("[]", []),
        ("Paris; Lyon\n\nThe paragraph says so.", ["Paris", "Lyon"]),
        ("Paris\nLyon", None),
        ("[__import__('os').getcwd()]", None),
        ("", None),
    ],
)  # fmt: skip
def test_extract(reply, answers):
    if answers is None:
        with pytest.raises(Invalid):
            extract.PROMPT.parse(reply)
    else:
        assert extract.PROMPT.parse(reply) == answers


@pytest.mark.parametrize(
    ("reply", "probability"),
    [("0.7", 0.7), (" 70% ", 0.7), ("70 %.", 0.7), ("Probability: 1", 1.0), ("1.", 1.0), (".25", 0.25), ("1e-4", 1e-4)]
    + [("0.7\n\nThe paragraph says so.", 0.7), ("100%", 1.0), ("0", 0.0)]
    + [(bad, None) for bad in ("1.7", "nan", "inf", "-0.1", "about 0.7", "70", "170%", "1_0", "", "0.7 or 0.8", "٠.٧")],
)
def test_forecast(reply, probability):
    if probability is None:
        with pytest.raises(Invalid):
            forecast.PROMPT.parse(reply)
    else:
        assert forecast.PROMPT.parse(reply) == pytest.approx(probability)


def test_equivalence_wants_exactly_as_many_verdicts_as_comparisons():
    comparisons = [equivalence.Comparison("Who?\n2. {x}", f"\u2028{i}", '"') for i in range(10)]
    fields = {"comparisons": equivalence.join_comparisons(comparisons)}
    assert equivalence.split_comparisons(fields["comparisons"]) == comparisons
    lines = [f"{i}. {'yes' if i % 2 else 'No'}" for i in range(1, 11)]
    expected = [bool(i % 2) for i in range(1, 11)]
    assert equivalence.PROMPT.parse("\n".join(lines), fields) == expected
    assert equivalence.PROMPT.parse(json.dumps(expected), fields) == expected
    skipped = lines[:4] + lines[5:] + ["11. no"]
    for wrong in (lines[:9], lines + ["11. yes"], skipped, ["yes, mostly", *lines[1:]], []):
        with pytest.raises(Invalid):
            equivalence.PROMPT.parse("\n".join(wrong), fields)
    with pytest.raises(ValueError, match="1 to 10 comparisons, not 11"):
        equivalence.join_comparisons(comparisons + comparisons[:1])


def test_correctness_and_paragraphs():
    assert [correctness.PROMPT.parse(reply) for reply in ("0", " 1. ", "1\n\nIt does.")] == [0, 1, 1]
    with pytest.raises(Invalid):
        correctness.PROMPT.parse("10")
    drafts = ['a "quoted"\n\none', "two {x} \u2028", ""]
    assert summarize.split_paragraphs(summarize.join_paragraphs(drafts)) == drafts
    assert summarize.PROMPT.parse("\n I am 70% sure.\n") == "I am 70% sure."
    for wrong in ("", " \n", "Here it is:\n\nI am sure."):
        with pytest.raises(Invalid):
            paragraph.PROMPT.parse(wrong)


def test_literals():
    value = parse_list("['a', \"b\", None, null, true, -1, [nan], Infinity]")
    assert repr(value) == "['a', 'b', None, None, True, -1, [nan], inf]"
    assert leading_list('[{"a": 1}] and so on') == [{"a": 1}]
    for bad in (
        "('a',)",
        "[unparsable",
        "1",
        "[1/2]",
        "[x]",
        "[print(1)]",
        "[b'a']",
        "",
        "\x00",
        "[" * 10_000,
        "[f'{1}']",
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_list(bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
REPLIES = (
    NASTY | st.text(alphabet="{}[]\"'\\:,0123456789.%eyns\n\t \u2028\u200f") | JSON.map(json.dumps) | JSON.map(repr)
)

FORMS = ["{}", "```json\n{}\n```", "Answers: {}", "{} I hope that this helps.", '{{"a": {}}}']
FORMS += [
    "<think>{}</think>{}",
    "<think>{}",
    "{}</think>{}",
    "**{}**",
    "Final answer: **{}**",
    "\\boxed{{{}}}",
    "1. **{}**",
]


@settings(max_examples=100)
@given(REPLIES, st.sampled_from(FORMS))
def test_parsers_return_a_value_that_can_be_kept_or_invalid(reply, form):
    for prompt in PROMPTS.values():
        try:
            value = prompt.parse(form.replace("{}", reply).replace("{{", "{").replace("}}", "}"), REQUEST)
        except Invalid as error:
            str(error).encode()
        else:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("reply", ['{"x": "\\ud800"}', "\ud800", '{"x": ["\\udfff"]}'])
def test_half_a_surrogate_pair_is_invalid(reply):
    for prompt in ANNOTATOR.values():
        with pytest.raises(Invalid):
            prompt.parse(reply, REQUEST)


@pytest.mark.parametrize("name", ANNOTATOR)
def test_examples_follow_their_own_prompt_in_text_and_as_objects(name):
    """A parser reads the examples of its own prompt, and the schema's JSON gives the same value."""
    prompt = ANNOTATOR[name]
    (member, kind), *others = json.loads(prompt.schema)["properties"].items()
    assert not others
    pairs = examples(prompt)
    assert pairs or name == "paragraph"
    for fields, example in pairs:
        value = prompt.parse(example, fields)
        assert isinstance(
            value, {"array": list, "number": float, "integer": int, "string": str, "boolean": bool}[kind["type"]]
        )
        for ascii_only in (True, False):
            text = json.dumps({member: value}, ensure_ascii=ascii_only)
            for reply in (text, f"```json\n{text}\n```", f"{text}\n\nThat is all.", repr(json.loads(text))):
                assert prompt.parse(reply, fields) == value


@given(st.lists(st.text(), max_size=4), st.floats(0, 1), st.text())
def test_objects_and_text_give_the_same_value(answers, probability, text):
    listed = extract.PROMPT.parse(json.dumps({"answers": answers}))
    assert listed == extract.PROMPT.parse(json.dumps(answers))
    assert forecast.PROMPT.parse(json.dumps({"probability": probability})) == probability
    assert forecast.PROMPT.parse(f"{probability:.9f}") == pytest.approx(probability, abs=1e-9)
    if text.strip() and "\n" not in text and not text.strip().startswith(("{", "```")):
        assert paragraph.PROMPT.parse(json.dumps({"paragraph": text})) == paragraph.PROMPT.parse(text)


def test_an_object_is_read_by_its_last_member():
    """The published wordings ask for Python dictionaries with the reasoning first."""
    reasoned = '{"Reasoning, string in triple quotes": """It says "70%".\n\nSo {0.7}.""", "Probability": 0.7}'
    assert forecast.PROMPT.parse(reasoned) == 0.7
    assert extract.PROMPT.parse("{'Reasoning': 'None', 'List of answers': ['a', \"b\"]}") == ["a", "b"]
    assert extract.PROMPT.parse("Reasoning: two are named.\nList of Answers to the Question: a; b") == ["a", "b"]
    assert forecast.PROMPT.parse("So:\n\nAnswer Probability, float in range [0.0, 1.0]: 0.2.") == 0.2
    comparisons = equivalence.join_comparisons([equivalence.Comparison("q", "a", "b")] * 2)
    two = {"comparisons": comparisons}
    assert equivalence.PROMPT.parse('{"Example 1": "yes", "Example 2": false}', two) == [True, False]
    for bad in ('{"probability": true}', '{"probability": null}', "{}", '{"probability": 1.1}', '{"p": 0.5', "{0.5}"):
        with pytest.raises(Invalid):
            forecast.PROMPT.parse(bad)
    with pytest.raises(Invalid):
        paragraph.PROMPT.parse('{"paragraph": "cut off in the mid')


def test_extractor_output_is_read_as_published(golden):
    cases = json.loads((golden / "lc_reward.json").read_text())["postprocess_answer_extractions"]
    for case in cases:
        answers = postprocess_answers(case["input"])
        assert sorted(answers) == sorted(case["as_sorted"]), case["input"]


def test_extractor_output_keeps_its_order_and_can_be_strict():
    assert postprocess_answers("b; a;b") == ["b", "a"]
    assert postprocess_answers(";a") == ["", "a"]
    for empty in ("", " no answers.", ";;", "No Answer;"):
        assert postprocess_answers(empty, strict=True) == []
    assert join_answers(["a", "b", "a"]) == "a; b"
    assert postprocess_answers(join_answers([])) == []


@pytest.mark.parametrize(
    ("prompt", "reply", "value"),
    [
        (extract.prompt(reasoning=True), "Reasoning: It names two: both.\nAnswers: Lyon; Paris", ["Lyon", "Paris"]),
        (extract.prompt(reasoning=True), "Two cities.\n\n**Answers:** Lyon; Paris", ["Lyon", "Paris"]),
        (extract.prompt(reasoning=True), "Answers: are not given.\nAnswers: No Answer", []),
        (extract.prompt(reasoning=True), "Two.\nAnswers:\nLyon; Paris\n", ["Lyon", "Paris"]),
        (extract.prompt(reasoning=True), '{"reasoning": "Two.", "answers": ["Lyon"]}', ["Lyon"]),
        (extract.prompt(reasoning=True), '{"answers": ["Lyon"], "reasoning": "One."}', ["Lyon"]),
        (forecast.prompt(reasoning=True), "It says 0.9 of Rome.\nProbability: 10%", 0.1),
        (forecast.prompt(reasoning=True), '{"reasoning": "0.9", "probability": 0.1}', 0.1),
        (correctness.prompt(reasoning=True), "It is not 1.\nVerdict: 0", 0),
    ],
)
def test_reasoning_before_an_answer_is_no_part_of_it(prompt, reply, value):
    assert prompt.parse(reply) == value


@pytest.mark.parametrize("reply", ["Paris", "The paragraph says Paris.", "Reasoning: Paris; Lyon", "Answers:"])
def test_reasoning_without_an_answer_is_none(reply):
    with pytest.raises(Invalid, match="no line begins with the label 'Answers' and a colon"):
        extract.prompt(reasoning=True).parse(reply)


@pytest.mark.parametrize("reasoning", [False, True])
def test_each_wording_shows_replies_in_its_own_form(reasoning):
    for prompt in (extract.prompt(reasoning), forecast.prompt(reasoning), correctness.prompt(reasoning)):
        assert prompt.template.endswith("\n\nReasoning:") == reasoning
        assert all(("\n" in reply) == reasoning for _, reply in examples(prompt))
        assert (next(iter(json.loads(prompt.schema)["properties"])) == "reasoning") == reasoning
    orders = ["the most probable first", "in the order in which the paragraph names them"]
    for text_order in (False, True):
        assert [order in extract.prompt(reasoning, text_order).template for order in orders] == [
            not text_order, text_order,
        ]  # fmt: skip


@pytest.mark.parametrize("module", [extract, forecast, correctness])
def test_a_wording_with_reasoning_differs_only_in_what_is_said_of_the_reply(module):
    """Two files hold one question: a change of a rule or an example must be made in both."""
    plain, reasoning = module.prompt(), module.prompt(reasoning=True)
    rules, reasoned_rules = (prompt.template.split("\n\n---\n\n")[0].splitlines() for prompt in (plain, reasoning))
    differing = [line for line in reasoned_rules if line not in rules]
    assert len(differing) == 1
    assert "rite two lines" in differing[0] or "with two lines" in differing[0]
    label = plain.template.rpartition("\n")[2]
    for (fields, reply), (same, reasoned) in zip(examples(plain), examples(reasoning), strict=True):
        assert fields == same
        assert reasoned.splitlines()[1:] == [f"{label} {reply}"]
