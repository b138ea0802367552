import hypothesis.strategies as st
import pytest
from hypothesis import given
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lc_jax.data import examples as ex
from lc_jax.data.questions import join
from lc_jax.data.tokenizer import make_tokenizer
from lc_jax.inference import generate
from lc_jax.prompts import Prompt, Templates, load_templates
from lc_jax.rl.writer import PolicyWriter
from lc_jax.types import Example, Question
from tests.data.test_tokenizer import recorded, tokenizers  # noqa: F401

PARAGRAPH = Prompt(
    "Below is a task. Write a reply that does what the task asks.\n\n"
    "### Task:\n{paragraph_generation_prompt}\n\n### Reply:"
)
EXTRACT = Prompt("Question: {question}\nParagraph: {generated_paragraph}\n### Reply:")
FORECAST = Prompt(
    "Question: {question}\nParagraph: {generated_paragraph}\nCandidate answer: {ground_truth_top_answer}\n### Reply:"
)
TEMPLATES = Templates(PARAGRAPH, EXTRACT, FORECAST, FORECAST, PARAGRAPH)
SFT = {"sft_lc": "lc_sft", "sft_factuality": "factuality_sft", "sft_claude_distill": "claude_distill"}


def fields_of(prompt, rendered):
    fields = prompt.match(rendered)
    assert fields is not None
    return fields


def encode(tokenizer, example, max_length):
    encoded = ex.encode_sft(tokenizer, example, max_length)
    assert encoded is not None
    return encoded


def rows_of(frame):
    return [dict(zip(frame, cells, strict=True)) for cells in zip(*frame.values(), strict=True)]


def of(recorded, recipe):  # noqa: F811
    frame = recorded["postprocess_sft_df"] if recipe in SFT else recorded["reward_model_frames"]
    return ex.make_examples(recipe, rows_of(frame["df"]), TEMPLATES)


@pytest.mark.parametrize("recipe", SFT)
def test_sft_rows_are_the_published_ones(recorded, recipe):  # noqa: F811
    ours, dropped = of(recorded, recipe)
    expected = recorded["postprocess_sft_df"]["results"][SFT[recipe]]["rows"]
    assert [example.target for example in ours] == expected["target"]
    prompts = [PARAGRAPH.render(paragraph_generation_prompt=q) for q in expected["paragraph_generation_prompt"]]
    assert [example.prompt for example in ours] == prompts
    assert sum(dropped.values()) == 8 - len(ours)


def test_reader_rows_are_the_published_ones(recorded):  # noqa: F811
    frames = recorded["reward_model_frames"]
    extract = frames["postprocess_extract_answers"]["result"]["rows"]
    forecast = frames["postprocess_forecast_probs"]["result"]["rows"]
    factuality = frames["postprocess_binary_correctness"]["result"]["rows"]
    assert [e.target for e in of(recorded, "extract_answers")[0]] == extract["target"]
    for recipe, rows in (("forecast_probs", forecast), ("factuality", factuality)):
        ours, _ = of(recorded, recipe)
        assert [e.label for e in ours] == rows["reward"]
        answers = [fields_of(FORECAST, e.prompt)["answer"] for e in ours]
        assert answers == [str(answer) for answer in rows["ground_truth_top_answer"]]
    assert of(recorded, "factuality")[1] == {
        "missing factuality_sft_binary_correctness": 1,
        "factuality_sft_binary_correctness is neither 0 nor 1": 3,
    }
    with pytest.raises(ValueError, match=r"No recipe 'sft'; there are"):
        ex.make_examples("sft", [], TEMPLATES)


@pytest.mark.parametrize(
    ("answers", "probs", "target", "labels"),
    [
        ("['a', 'b']", "[0.5]", None, None),
        ("['a']", "[1.5]", "No Answer", None),
        ("('a',)", "(0.5,)", None, None),
        ("['a', 'b']", "[nan, 0.5]", None, [0.5]),
        ('["a", null, "c"]', "[0.1, 0.2, 0.3]", None, [0.1, 0.3]),
        ("[unparsable", "[0.5]", None, None),
        (["a", "b"], [0.5, 0.5], "b", [0.5, 0.5]),
        ("['a', ['x']]", "[0.5, 0.5]", None, None),
        (float("nan"), float("nan"), None, None),
        ("[__import__('os')]", "[0.5]", None, None),
    ],
)
def test_list_cells_never_crash(answers, probs, target, labels):
    row = {"question_id": 1, "question": "q", "answer": "a", "lc_sft_generated_paragraph": "para"}
    row |= {"lc_sft_ground_truth_and_extracted_answers": answers, "lc_sft_forecasted_probs": probs}
    extract, dropped = ex.make_examples("extract_answers", [row], TEMPLATES)
    assert [e.target for e in extract] == ([] if target is None else [target])
    assert sum(dropped.values()) == (target is None)
    assert [e.label for e in ex.make_examples("forecast_probs", [row], TEMPLATES)[0]] == (labels or [])


@pytest.mark.parametrize("case", [0, 1, 2, 3, 9])
def test_sft_tokens_and_labels_are_the_published_ones(recorded, tokenizers, case):  # noqa: F811
    case = recorded["lc_sft"][case]
    recipe = next((r for r in ("extract_answers", "factuality") if r in case["note"]), "lc")
    ours, _ = of(recorded, {"factuality": "sft_factuality", "lc": "sft_lc"}.get(recipe, recipe))
    encoded = ex.encode_all(tokenizers[case["tokenizer"]], ours, 1024)
    assert [list(e.tokens) for e in encoded] == case["input_ids"]
    assert [e.num_source for e in encoded] == case["source_lens"]
    for row, labels in zip(encoded, case["labels"], strict=True):
        assert [-100] * row.num_source + list(row.tokens[row.num_source :]) == labels


def test_prompt_and_target_are_tokenised_as_one_text(recorded, tokenizers):  # noqa: F811
    prompt = PARAGRAPH.render(paragraph_generation_prompt="p")
    for target, tokens in zip((" Ada", "\nAda", "Ada", ":Ada", ""), recorded["lc_sft"][7]["input_ids"], strict=True):
        encoded = encode(tokenizers["llama2"], Example("", prompt, target), 1024)
        # Differs: "::" spans prompt and target, and the published labels leave it out.
        assert (list(encoded.tokens), encoded.num_source) == (tokens, 30 if target == ":Ada" else 31)


def test_a_prompt_that_fills_the_window_leaves_no_label(recorded, tokenizers):  # noqa: F811
    example = Example("", "one two three", "four")
    length = len(tokenizers["llama2"].encode_prompt(example.prompt))
    assert ex.encode_all(tokenizers["llama2"], [example], length) == []
    cut = encode(tokenizers["llama2"], example, length + 1)  # the end-of-sequence token is cut off
    assert (len(cut.tokens), cut.num_source) == (length + 1, length)
    assert cut.tokens[-1] != tokenizers["llama2"].eos_id


@pytest.mark.parametrize("case", range(4))
def test_reward_model_tokens_are_the_published_ones(recorded, tokenizers, case):  # noqa: F811
    case = recorded["lc_reward_modeling"][case]
    ours, _ = of(recorded, "factuality" if "binary" in case["note"] else "forecast_probs")
    tokens = [tokenizers[case["tokenizer"]].encode_prompt(example.prompt, "", 1024) for example in ours]
    assert tokens[: case["result"]["n"]] == case["result"]["input_ids"]  # the frame there is one row shorter


@pytest.mark.parametrize("case", range(4))
def test_long_queries_are_dropped_as_published(recorded, tokenizers, case):  # noqa: F811
    case = recorded["lc_query"][case]
    rows = rows_of(case["df"])
    questions = [
        Question(r["question_id"], r["paragraph_generation_prompt"], r["question"], r["ground_truth_top_answer"])
        for r in rows
    ]
    writer = PolicyWriter(tokenizers[case["tokenizer"]], PARAGRAPH, None, generate.Sampling(1), 1)
    if "raises" in case:
        with pytest.raises(ValueError, match="Every training prompt is longer"):
            writer.fitting(questions, case["query_len"])
        return
    result, short = case["result"], writer.fitting(questions, case["query_len"])
    assert [q.question for q in short] == result["user_decision_questions"]
    padded = [[i for i in row if i != case["pad_token_id"]] for row in result["queries"]["data"]]
    assert [writer.encode(q) for q in short] == padded


def test_only_the_paragraph_is_cut(tokenizers):  # noqa: F811
    prompt, tokenizer = load_templates("full").forecast_probs, tokenizers["llama2"]
    fields = {"generated_paragraph": "word 北京 " * 600, "question": "Who? " * 20, "answer": "A {b}"}
    fields_in_prompt = fields_of(prompt, ex.cut_paragraph(prompt, fields))
    assert fields_in_prompt["generated_paragraph"] == fields["generated_paragraph"][:2000]
    matched = fields_of(prompt, ex.cut_paragraph(prompt, fields, tokenizer.fits(400)))
    assert len(tokenizer.encode_prompt(prompt.render(**matched))) > 395
    assert (matched["question"], matched["answer"]) == (fields["question"], fields["answer"])
    assert fields["generated_paragraph"].startswith(matched["generated_paragraph"])
    with pytest.raises(ValueError, match="Question and answer alone exceed"):
        ex.cut_paragraph(prompt, fields, tokenizer.fits(100))
    with pytest.raises(ValueError, match="exceeds 9"):
        tokenizer.encode_prompt(prompt.render(**fields), "", 9)


def test_splits_are_the_published_ones_where_ids_are_distinct(recorded):  # noqa: F811
    compared = 0
    for case in recorded["stratified_split"]["cases"]:
        ids, size = [str(i) for i in case["question_ids"]], case["eval_size"]
        if len(set(ids)) < len(ids) or not 0 < size < len(ids):
            continue
        split = ex.split_by_question([Example(i, str(n)) for n, i in enumerate(ids)], size, case["random_state"])
        assert [int(e.prompt) for e in split.train] == case["train_rows"]
        assert [int(e.prompt) for e in split.evaluation] == case["eval_rows"]
        compared += 1
    assert compared == 3


def test_a_split_by_hand():
    split = ex.split_by_question([Example(f"q{i}", str(i)) for i in range(20)], 5, 42)
    assert [e.prompt for e in split.evaluation] == ["6", "7", "10", "12", "14"]
    assert ex.split_by_question(split.train, 0, 42) == ex.Split(split.train, [])


def test_labels_by_hand():
    words = ["[UNK]", "</s>", "Write", "It", "is"]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = make_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")).with_pad_token()
    assert tokenizer.pad_id == 5
    assert encode(tokenizer, Example("", "Write ", "It is"), 9) == ex.Encoded((2, 3, 4, 1), 1)
    assert encode(tokenizer, Example("", "Write ", "It is"), 2) == ex.Encoded((2, 3), 1)
    assert ex.encode_sft(tokenizer, Example("", "Write ", "It is"), 1) is None
    assert tokenizer.encode_prompt("Write</s> is") == [0, 4]  # the special token is part of an unknown word


def test_the_published_pipelines_end_to_end(recorded, tokenizers):  # noqa: F811
    modules = recorded["data_modules"]
    frames = modules["frames"]
    for name, recipe, frame in (
        ("supervised_lc_sft", "sft_lc", "sft_training"),
        ("supervised_factuality_sft", "sft_factuality", "sft_training"),
        ("supervised_claude_distill", "sft_claude_distill", "sft_training"),
        ("supervised_extract_answers", "extract_answers", "reward_model_training"),
    ):
        rows = join(rows_of(frames[frame]), rows_of(frames["trivia_qa"]))
        ours, _ = ex.make_examples(recipe, rows, TEMPLATES)
        split = ex.split_by_question(ours, modules[name]["eval_size"], 42, ids=[row["question_id"] for row in rows])
        for side, key in ((split.train, "train_input_ids"), (split.evaluation, "eval_input_ids")):
            encoded = ex.encode_all(tokenizers[modules[name]["tokenizer"]], side, 1024)
            assert [list(e.tokens) for e in encoded] == modules[name][key]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_no_question_is_on_both_sides(ids, eval_size, seed):
    examples = [Example(i, str(n)) for n, i in enumerate(ids)]
    if eval_size >= len(set(ids)):
        with pytest.raises(ValueError, match="must be less than the number of distinct questions"):
            ex.split_by_question(examples, eval_size, seed)
        return
    split = ex.split_by_question(examples, eval_size, seed)
    assert not {e.example_id for e in split.train} & {e.example_id for e in split.evaluation}
    assert len({e.example_id for e in split.evaluation}) == eval_size
    assert sorted(split.train + split.evaluation, key=lambda e: int(e.prompt)) == examples
