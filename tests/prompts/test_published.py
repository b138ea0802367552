"""A folder of wordings under the published names: each is shown and read as it asks, or refused by name."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from lc_jax.evaluation import biography, qa
from lc_jax.llm.data_tasks import data_tasks
from lc_jax.prompts import (
    Invalid,
    correctness,
    equivalence,
    extract,
    forecast,
    in_context,
    load_templates,
    paragraph,
    published,
    query,
    strategies,
    summarize,
)
from lc_jax.prompts.claims import Claim
from lc_jax.prompts.confidence import Stated
from tests.prompts.examples import examples

CHAT_JUDGE = "eval/check_semantic_equivalence_10shot_batch10_claude_chat.txt"


def write(folder, name, text, flat=False):
    file = published.FILES.get(name, name)
    path = folder / (file.rpartition("/")[2] if flat else file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


TOPIC, WRITE = "{paragraph_generation_prompt}", {"paragraph_generation_prompt": "Write."}
JUDGE = "{question} {generated_paragraph} {ground_truth_top_answer}"
READ = {"generated_paragraph": "A or B.", "question": "Q?"}
PAIRS = equivalence.join_comparisons(
    [equivalence.Comparison("Who?", "Ada", 'Ada "L."'), equivalence.Comparison("Where?", "Linz", "Graz")]
)
CLUE = {"category": "C", **query.request_fields("This river", ["Danube"])}
# By name: (placeholders of the published file, fields of a request, a reply in the form that it asks for, its value).
FORMS = {
    "paragraph": (TOPIC, WRITE, " It is so.", "It is so."),
    "extract_answers": ("{generated_paragraph} {question}", READ, "A; B", "A; B"),
    "forecast_probs": (JUDGE, READ | {"answer": "A"}, "", ""),
    "factuality": (JUDGE, READ | {"answer": "A"}, "", ""),
    "critic": ("{question} {ground_truth_top_answer}", WRITE | {"question": "Q?", "answer": "A"}, "", ""),
    "in_context": (TOPIC + "\n\n## Paragraph 9", WRITE, "\nOne.\n\n## Example 10\n\nTwo.", "One."),
    "confident_in_context": (TOPIC, WRITE, "## Paragraph 9\nOne (50%).\n\nTwo.", "One (50%)."),
    "vendor_confident_in_context": (
        TOPIC, WRITE, "## Paragraph 9\nOne (50%).\n\nTwo.", "One (50%).\n\nTwo.",
    ),
    "llama_2_chat": (TOPIC, WRITE, " It is so.", "It is so."),
    "few_shot": ("Q: Where?\nA: There\nQ: " + TOPIC + "\nA:", WRITE, " Bern\nQ: And this?\nA: Rome", "Bern"),
    "percentage": (TOPIC + " In per cent?", WRITE, "Bern (50%)\n", "Bern (50%)"),
    "query": (
        "Question 1: {question}", query.request_fields("Which river?", ["Danube"]),
        "Question 2: Write a paragraph about the river.", "Write a paragraph about the river.",
    ),
    "clue": (
        "{category} {question} {ground_truth_top_answer}", CLUE,
        '### Output 6\n{\n    "Explanation": "Plain, is it?",\n    "Rephrased Question": "Which \\"river\\" is it?"\n}',
        'Which "river" is it?',
    ),
    "claude_distill": (TOPIC + "\n\nParagraph:", WRITE, "Paragraph: One.\n\nTwo.", "One.\n\nTwo."),
    "uncertainty": (TOPIC + "\n\nParagraph:", WRITE, "One (50%).", "One (50%)."),
    "summarize": (
        "{formatted_paragraphs}\n### Reminder", WRITE | {"paragraphs": summarize.join_paragraphs(["a", "b"])},
        "Here it is:\n\n### My Statement\nI am 75% sure.\n\nI know no more.", "I am 75% sure.\n\nI know no more.",
    ),
    "extract": (
        "{generated_paragraph} {question}", READ,
        '{\n "Reasoning for answer, string in triple quotes": """It names A;\nand "B".""",\n'
        ' "List of answers to the question in the context paragraph": ["A", "B; or C"]\n}',
        ["A", "B; or C"],
    ),
    "forecast": (
        JUDGE, READ | {"answer": "A"},
        '{\n "Reasoning for Answer, string in triple quotes": """It says 40%.""",\n'
        ' "Answer Probability, float in range [0.0, 1.0]": 0.4\n}',
        0.4,
    ),
    "correctness": (
        JUDGE, READ | {"answer": "A"},
        '{"Reasoning for decision, string in triple quotes": """So.""", "Context is correct (1) or incorrect (0)": 1}',
        1,
    ),
    "eval_extract": (
        "{generated_paragraph} {question}", READ,
        "Reasoning for Answer: It names A; it also names B.\n"
        "List of Answers to the Question in the Context Paragraph: A; B.",
        ["A", "B"],
    ),
    "eval_forecast": (
        JUDGE, READ | {"answer": "A"},
        "Reasoning for Answer: It gives a probability: 40%.\n\nAnswer Probability, float in range [0.0, 1.0]: 0.4.",
        0.4,
    ),
    "equivalence": (
        "I show {n_queries} examples.\n\n{examples}\n\nAssistant:\n## Answer\n", {"comparisons": PAIRS},
        '## Answer\n{\n    "Answer 1": "Yes",\n    "Answer 2": "No"\n}\n\n## Explanation\n{"Explanation 1": "No"}',
        [True, False],
    ),
    "claims": (
        "{entity} {generated_paragraph}", {"entity": "E", "generated_paragraph": "P"},
        '### Atomic Claim Decomposition 9\n[\n ("""E was "A".""", "Objective"),\n'
        ' [\n  ("""B.""", "Objective"),\n  ("""C.""", "Subjective")\n ]\n]',
        [[Claim('E was "A".', "Objective")], [Claim("B.", "Objective"), Claim("C.", "Subjective")]],
    ),
    "plain_claims": (
        "{entity} {generated_paragraph}", {"entity": "E", "generated_paragraph": "P"},
        '{\n """E was A.""": "Objective",\n """E was good.""": "Subjective",\n}',
        [[Claim("E was A.", "Objective")], [Claim("E was good.", "Subjective")]],
    ),
    "confidence": (
        "{claims_list}\n\nAssistant: Statement 1:", {"statements": "Statement 1: Perhaps A.\nStatement 2: B."},
        "Statement 1: Perhaps A.\n[Step 1] Core Claim: A.\n[Step 2] Statement and Core Claim are the Same: False\n"
        "Classification: Linguistic Uncertainty\nProbability: 0.3\n\nStatement 2: B.\n[Step 1] Core Claim: B.\n"
        "[Step 2] Statement and Core Claim are the Same: True\nClassification: Direct",
        [Stated("A.", 0.3), Stated("B.", 1.0)],
    ),
}  # fmt: skip
# Our prompt for each name; of the fine-tuned models the templates.
OURS = {name: task.prompt for name, task in (qa.TASKS | biography.TASKS | data_tasks(False, False)).items()}
OURS |= {name: prompt for prompt, name in strategies._PROMPTED.values()}
OURS |= {"vendor_confident_in_context": in_context.CONFIDENT}
OURS |= {"few_shot": strategies.COMPLETED_PERCENTAGE, "percentage": strategies.PERCENTAGE}
FULL = load_templates("full")
OURS |= {field.name: getattr(FULL, field.name) for field in dataclasses.fields(FULL)}


def test_every_published_name_has_a_form_here():
    assert FORMS.keys() == published.FILES.keys()


@pytest.mark.parametrize("name", FORMS)
def test_a_wording_is_filled_in_and_its_reply_read_in_its_own_form(tmp_path, name):
    template, fields, reply, value = FORMS[name]
    write(tmp_path, name, f"\n\nHuman: Theirs. {{{{ x }}}} {template}")
    published.check(tmp_path)
    theirs = published.override(tmp_path, name, OURS[name])
    text = theirs.render(**fields)
    assert text.startswith("Theirs. { x } ")
    assert "{question}" not in text
    for field in re.findall(r"\{(\w+)\}", template):
        part = fields.get({"ground_truth_top_answer": "answer", "claims_list": "statements"}.get(field, field))
        assert part is None or part in text
    assert theirs.parse(reply, fields) == value
    assert theirs.schema == ""  # the wording says itself in which form it wants its reply


@pytest.mark.parametrize("name", FORMS)
def test_a_wording_without_a_placeholder_that_its_question_needs_is_refused(tmp_path, name):
    template, *_ = FORMS[name]
    optional = "n_queries|ground_truth_top_answer" if name == "clue" else "n_queries"
    needed = re.findall(rf"\{{(?!{optional})\w+\}}", template)
    for placeholder in needed:
        path = write(tmp_path, name, f"Theirs. {template.replace(placeholder, '')}")
        with pytest.raises(ValueError, match=rf"{re.escape(path.name)} must hold the placeholders \[.*; it holds"):
            published.check(tmp_path)
    path = write(tmp_path, name, f"{{passages}} {template}")
    with pytest.raises(ValueError, match=rf"{re.escape(path.name)} must hold .*it holds \[.*'passages'"):
        published.override(tmp_path, name, OURS[name])


def theirs(tmp_path, name):
    write(tmp_path, name, FORMS[name][0])
    return published.override(tmp_path, name, OURS[name])


@pytest.mark.parametrize("name", ["extract", "eval_extract"])
def test_no_answers_is_no_answer(tmp_path, name):
    label = "List of Answers to the Question in the Context Paragraph"
    prompt = theirs(tmp_path, name)
    assert prompt.parse(f"Reasoning for Answer: It names none.\n{label}: No Answers", READ) == []
    assert prompt.parse(f"### Assistant Answer\nReasoning for Answer: None.\n\n{label}: No Answers.", READ) == []
    assert prompt.parse('{"Reasoning": "none", "List of answers to the question": []}', READ) == []
    assert prompt.parse(f"{label}: U.S.", READ) == ["U.S"]  # as published


@pytest.mark.parametrize("name", ["extract", "eval_extract"])
@pytest.mark.parametrize(
    "reply",
    [
        "Reasoning for Answer: The paragraph names A and B.",
        "The paragraph names A.\nIt also names B.",
        "List of Answers to the Question in the Context Paragraph:",
        '{"Reasoning": "it is A", ',
    ],
)
def test_reasoning_never_passes_for_an_answer(tmp_path, name, reply):
    with pytest.raises(Invalid):
        theirs(tmp_path, name).parse(reply, READ)


def test_a_shortened_wording_may_ask_for_the_bare_value(tmp_path):
    assert theirs(tmp_path, "eval_extract").parse("A; B", READ) == ["A", "B"]
    assert theirs(tmp_path, "eval_forecast").parse("40%", READ) == 0.4
    assert theirs(tmp_path, "correctness").parse("0", READ) == 0


@pytest.mark.parametrize("reply", ["Reasoning for Answer: 0.4", "0.4 or so", "Answer Probability: high", "0.4\n0.5"])
def test_a_forecast_without_its_label_or_number_is_invalid(tmp_path, reply):
    with pytest.raises(Invalid):
        theirs(tmp_path, "eval_forecast").parse(reply, READ)


def test_comparisons_are_shown_in_the_published_form_and_verdicts_held_to_their_numbers(tmp_path):
    prompt = theirs(tmp_path, "equivalence")
    text = prompt.render(comparisons=PAIRS)
    assert text.startswith("I show 2 examples.\n\n## Example 1\n{\n")
    comparisons = [json.loads(block) for block in re.findall(r"^\{\n.*?^\}", text, re.DOTALL | re.MULTILINE)]
    assert comparisons == [
        {"Question": "Who?", "Ground-Truth Answer": "Ada", "Provided Answer": 'Ada "L."'},
        {"Question": "Where?", "Ground-Truth Answer": "Linz", "Provided Answer": "Graz"},
    ]
    assert text.endswith("}")  # the turn that the file opens for the assistant is left out
    for reply in ('{"Answer 2": "Yes", "Answer 1": "No"}', '{"Answer 1": "Yes"}', '{"Answer 1": "Yes", "b": "No"}'):
        with pytest.raises(Invalid):
            prompt.parse(reply, {"comparisons": PAIRS})


def test_the_judges_wording_for_chat_models_is_read_where_the_other_is_not_there(tmp_path):
    words = "Judge {n_queries}:\n{examples}"
    write(tmp_path, CHAT_JUDGE, f"<|im_start|>user\n{words}\n<|im_end|>\n<|im_start|>assistant\n## Answer\n<|im_end|>")
    published.check(tmp_path)
    prompt = published.override(tmp_path, "equivalence", equivalence.PROMPT)
    assert prompt.template == words
    write(tmp_path, "equivalence", f"Human: {words}\n\nAssistant:\n## Answer\n")  # the same words: both may be there
    published.check(tmp_path)
    write(tmp_path, "equivalence", f"Human: Other words. {words}")
    with pytest.raises(ValueError, match=r"batch10\.txt and .*claude_chat\.txt are of the same question and differ"):
        published.check(tmp_path)


def test_the_chat_wording_fills_the_chat_format(tmp_path):
    write(tmp_path, "llama_2_chat", "Do this. {paragraph_generation_prompt}\n\n### Response:")
    ours = strategies.load("llama-2-chat", "full", checkpoint=True)
    prompt = strategies.load("llama-2-chat", "full", tmp_path, checkpoint=True)
    system = ours.render(paragraph_generation_prompt="Write.").partition("<</SYS>>")[0]
    assert prompt.render(paragraph_generation_prompt="Write.") == (
        f"{system}<</SYS>>\n\nDo this. Write.\n\n### Response: [/INST]"
    )
    whole = "[INST] Mine: {paragraph_generation_prompt} [/INST]"  # a format of its own is left as it is
    write(tmp_path, "llama_2_chat", whole)
    assert strategies.load("llama-2-chat", "full", tmp_path, checkpoint=True).template == whole


def test_a_vendors_model_and_a_checkpoint_have_summary_wordings_of_their_own(tmp_path):
    write(tmp_path, "confident_in_context", "Base. {paragraph_generation_prompt}")
    write(tmp_path, "vendor_confident_in_context", "Vendor. {paragraph_generation_prompt}")
    for is_checkpoint, word in ((True, "Base"), (False, "Vendor")):
        prompt = strategies.load("summary-8-shot", "full", tmp_path, checkpoint=is_checkpoint)
        assert prompt.template.startswith(word)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("train/forecast_probs_claude_0shots.txt", r"0shots\.txt is read by nothing; did you mean forecast_probs_"),
        ("notes.txt", r"notes\.txt is read by nothing; it has no published name"),
        ("prompts/train/value_model_llama_finetuned.txt", r"not where it is read: move it to train/value_model"),
        ("paragraph.txt", r"paragraph\.txt is a file of templates.*--config\.templates"),
    ],
)  # fmt: skip
def test_a_file_that_nothing_reads_is_refused_by_name(tmp_path, file, message):
    write(tmp_path, "query", "Ask {question}")
    published.check(tmp_path)
    write(tmp_path, file, "{question}")
    for use in (published.check, lambda folder: load_templates("full", folder)):
        with pytest.raises(ValueError, match=message):
            use(tmp_path)


def test_two_files_of_one_name_with_different_words_are_refused(tmp_path):
    write(tmp_path, "query", "Ask {question}")
    write(tmp_path, "query", "Ask {question}", flat=True)
    published.check(tmp_path)
    write(tmp_path, "query", "Put it: {question}", flat=True)
    with pytest.raises(ValueError, match="differ: keep one of them"):
        published.override(tmp_path, "query", query.PROMPT)


def test_a_folder_of_published_files_takes_the_place_of_our_wordings(tmp_path):
    turns = 'Write {{"ok": 1}}, as in Human: x\n\nAssistant: {{"ok": 1}}\n\nHuman: Go.\n\nAssistant:\n{{\n'
    write(tmp_path, "correctness", "\n\nHuman: {question} {generated_paragraph} {ground_truth_top_answer}\n" + turns)
    write(tmp_path, "query", "Ask {question}\n", flat=True)
    write(tmp_path, "summarize", "{formatted_paragraphs}\nSummary:")
    theirs = published.override(tmp_path, "correctness", correctness.PROMPT)
    fields = {"question": "{answer}", "generated_paragraph": "{{", "answer": "}"}
    assert theirs.render(**fields) == (
        '{answer} {{ }\nWrite {"ok": 1}, as in Human: x\n\nAssistant: {"ok": 1}\n\nHuman: Go.'
    )
    fields = query.request_fields("Who?", ["Me", "I"])
    assert published.override(tmp_path, "query", query.PROMPT).render(**fields) == "Ask Who?"
    merge = published.override(tmp_path, "summarize", summarize.PROMPT)
    drafts = summarize.join_paragraphs(["a", "b"])
    assert merge.render(paragraph_generation_prompt="Write.", paragraphs=drafts) == (
        "### Thought 1\na\n\n### Thought 2\nb\n\n\nSummary:"
    )
    assert merge.match("### Thought 1\na\n\n### Thought 2\nb\n\n\nSummary:") is None
    assert published.override(tmp_path, "claude_distill", paragraph.PROMPT) is paragraph.PROMPT
    assert published.override("", "query", query.PROMPT) is query.PROMPT


def test_the_fine_tuned_models_too(tmp_path):
    ours = load_templates("full")
    write(tmp_path, "critic", "Q: {question}\nA: {ground_truth_top_answer}\n### Response:\n")
    mixed = load_templates("full", tmp_path)
    fields = {"paragraph_generation_prompt": "Write.", "question": "Who?", "answer": "Me"}
    assert mixed.critic.render(**fields) == "Q: Who?\nA: Me\n### Response:"
    assert mixed.paragraph == ours.paragraph
    with pytest.raises(FileNotFoundError, match=r"paragraph\.txt is missing; .* or the published files"):
        load_templates(tmp_path)
    for name in ("paragraph", "extract_answers", "forecast_probs", "factuality"):
        write(tmp_path, name, getattr(ours, name).template)
    assert load_templates(tmp_path).factuality.template == ours.factuality.template


def test_folders_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prompt_dir=.*no such folder"):
        published.override(tmp_path / "none", "in_context", in_context.PROMPT)
    assert Path(published.FILES["extract"]).name != Path(published.FILES["eval_extract"]).name
    assert extract.PROMPT.schema
    assert forecast.PROMPT.schema


def test_eight_examples_for_a_base_model():
    rendered = in_context.PROMPT.render(paragraph_generation_prompt="Write a paragraph about rain.")
    assert rendered.endswith("\n\nRequest: Write a paragraph about rain.\nParagraph:")
    assert rendered.count("\nParagraph:") == 9
    for prompt in (in_context.PROMPT, in_context.CONFIDENT):
        pairs = examples(prompt, "\n\n")
        assert len(pairs) == 8
        for fields, reply in pairs:
            assert fields["paragraph_generation_prompt"].startswith("Write a paragraph about ")
            assert prompt.parse(f" {reply}\r\n\r\nRequest: Write more.") == reply
            assert 2 <= reply.count(".") <= 8
