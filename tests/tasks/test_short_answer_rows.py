"""Rows of a table of short answers that a checkpoint writes: few-shot, asked for a percentage, own probability."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.evaluation.writers import Writer
from lc_jax.inference import generate, writing
from lc_jax.prompts import strategies
from lc_jax.tasks import evaluate_qa, generate_data
from tests.tasks.test_pipeline import rows
from tests.test_configs import config_of

CHAT = Path(__file__).resolve().parents[1] / "cases" / "chat"
PLAIN = CHAT.parent / "appended_eos"
EXAMPLES = "".join(f"Question: Where is city {i}?\nAnswer: Land {i}\n\n" for i in range(3))
FEW_SHOT = EXAMPLES + "Question: {paragraph_generation_prompt}\nAnswer:"
QUERIES = {"q0": "Where is Gent?", "q1": "Where is Chad?", "q2": "Which town?"}


@pytest.fixture
def wordings(tmp_path):
    folder = tmp_path / "wordings"
    folder.mkdir()
    (folder / "few_shot.txt").write_text(FEW_SHOT + "\n")
    return folder


@pytest.fixture
def mesh():
    return parallel.make_mesh()


def paragraphs_of(tmp_path, mesh, strategy, model=CHAT, **settings):
    """Texts by id of a checkpoint, and the rows that it keeps."""
    config = config_of("evaluate_qa", "own")
    config.model, config.strategy, config.output = str(model), strategy, str(tmp_path / "out")
    config.temperature, config.max_new_tokens, config.batch_size = 0.0, 6, 8
    config.precision.compute_dtype = "float32"
    config.update(settings)
    texts, costs = Writer.from_settings(config).write(QUERIES, None, mesh)
    assert costs == []
    return {name: annotation.value for name, annotation in texts.items()}, rows(tmp_path / "out" / "paragraphs.jsonl")


def greedy_by_transformers(prompt, stops):
    """Greedy tokens and the product of their probabilities, the last one's included."""
    network = transformers.AutoModelForCausalLM.from_pretrained(CHAT).eval()
    ids, product = list(prompt), 1.0
    while len(ids) < len(prompt) + 6:
        with torch.no_grad():
            probs = torch.softmax(network(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()
        ids.append(int(np.argmax(probs)))
        product *= probs[ids[-1]]
        if ids[-1] in stops:
            break
    return ids[len(prompt) :], product


def test_log_probabilities_of_short_answers_are_those_of_transformers(mesh, monkeypatch):
    lengths = []
    compute = generate.compute_prefix
    monkeypatch.setattr(generate, "compute_prefix", lambda m, tokens: lengths.append(len(tokens)) or compute(m, tokens))
    tokenizer = load_tokenizer(CHAT)
    assert tokenizer.line_break_ids() == (202,)
    texts = [FEW_SHOT.replace("{paragraph_generation_prompt}", query) for query in QUERIES.values()]
    decoding = writing.Decoding(6, 0.0, 0, 8, one_line=True)
    texts_by_place = {place: rest for place, *rest in writing.write(str(CHAT), mesh, texts, decoding, {})}
    for place, text in enumerate(texts):
        tokens, product = greedy_by_transformers(tokenizer.encode_prompt(text), (1, 3, 202))
        answer, _, logprob = texts_by_place[place]
        assert answer == tokenizer.decode(tokens).partition("\n")[0]
        assert abs(logprob - math.log(product)) < 1e-3
    (length,) = lengths  # the examples are computed once for all questions
    assert length >= 64


def answers(*texts_and_logprobs):
    """Replaces the model: completions with these texts, and log-probabilities of their tokens."""

    def stream(model, prompts, sampling, **settings):
        tokenizer = load_tokenizer(CHAT)
        for place, (text, logprobs) in enumerate(texts_and_logprobs):
            yield place, generate.Completion(tokenizer.encode_prompt(text)[1:], list(logprobs), True)

    return stream


def test_an_answer_ends_at_its_first_line_break_which_counts(tmp_path, mesh, wordings, monkeypatch):
    # exp(-1.0) = 36.8 %; the break's own -0.7 is part of it. A text of nothing states nothing.
    replies = answers((" Bern\n", (-0.1, -0.2, -0.7)), (" A town.\n", (-0.5, 0.0)), ("\n", (-0.1,)))
    monkeypatch.setattr(generate, "stream", replies)
    texts, _ = paragraphs_of(tmp_path, mesh, "own-probability", prompt_dir=str(wordings))
    assert texts == {"q0": "Bern (36.8%)", "q1": "A town (60.7%)", "q2": ""}
    (tmp_path / "out" / "paragraphs.jsonl").unlink()
    texts, _ = paragraphs_of(tmp_path, mesh, "few-shot", prompt_dir=str(wordings))
    assert texts == {"q0": "Bern", "q1": "A town.", "q2": ""}


def test_generation_stops_at_a_line_break_and_at_every_stop_token():
    tokenizer = load_tokenizer(CHAT)
    decoding = writing.Decoding(6, 0.0, 0, 1, one_line=True)
    assert decoding.sampling(tokenizer).eos_ids == (1, 3, 202)
    assert writing.Decoding(6, 0.0, 0, 1).sampling(tokenizer).eos_ids == (1, 3)


def prompts_of(monkeypatch):
    """Records the prompts that a checkpoint reads, in place of writing."""
    calls = []

    def write(folder, mesh, prompts, decoding, precision, row_ids=None):
        calls.extend((prompt, decoding.one_line) for prompt in prompts)
        return ((i, "Here (50%)\nmore", True, 0.0) for i in range(len(prompts)))

    monkeypatch.setattr(writing, "write", write)
    return calls


def test_a_chat_model_is_asked_for_a_percentage_in_its_conversation_and_any_other_in_a_text(
    tmp_path, mesh, monkeypatch
):
    calls = prompts_of(monkeypatch)
    texts, _ = paragraphs_of(tmp_path / "chat", mesh, "percentage")
    (message,), one_line = calls[0]
    assert (message.role, one_line) == ("user", False)
    assert message.content.startswith("Where is Gent?\n\n")
    assert message.content.endswith("ANSWER (NUMBER%). Write nothing else.")
    assert texts["q0"] == "Here (50%)\nmore"
    calls.clear()
    texts, _ = paragraphs_of(tmp_path / "plain", mesh, "percentage", model=PLAIN)
    assert calls[0] == (message.content + "\n\nReply:", True)
    assert texts["q0"] == "Here (50%)"


def test_percentage_txt_takes_the_place_of_the_wording(tmp_path, mesh, wordings, monkeypatch):
    (wordings / "percentage.txt").write_text("How sure? {paragraph_generation_prompt}")
    calls = prompts_of(monkeypatch)
    paragraphs_of(tmp_path / "chat", mesh, "percentage", prompt_dir=str(wordings))
    paragraphs_of(tmp_path / "plain", mesh, "percentage", model=PLAIN, prompt_dir=str(wordings))
    assert calls[0][0][0].content == calls[3][0] == "How sure? Where is Gent?"


def test_mistakes_are_named(tmp_path, mesh, wordings):
    with pytest.raises(ValueError, match=r"strategy=few-shot needs examples: .*few_shot\.txt by --config\.prompt_dir"):
        paragraphs_of(tmp_path, mesh, "few-shot")
    with pytest.raises(
        ValueError, match=r"temperature=0\.3: the strategy own-probability.*give --config\.temperature=0"
    ):
        paragraphs_of(tmp_path, mesh, "own-probability", temperature=0.3, prompt_dir=str(wordings))
    (wordings / "few_shot.txt").write_text("Question: {question}")
    with pytest.raises(ValueError, match=r"few_shot\.txt must hold the placeholders \['paragraph_generation_prompt'\]"):
        paragraphs_of(tmp_path, mesh, "few-shot", prompt_dir=str(wordings))
    assert not (tmp_path / "out").exists()


def test_stated_own_probabilities_are_scored_by_rule(tmp_path, mesh, wordings, monkeypatch):
    replies = answers((" Belgium\n", (math.log(0.75), 0.0)), (" Niger\n", (-20.0, 0.0)))
    monkeypatch.setattr(generate, "stream", replies)
    config = config_of("evaluate_qa", "own")
    config.model, config.strategy, config.prompt_dir = str(CHAT), "own-probability", str(wordings)
    config.temperature, config.output, config.method = 0.0, str(tmp_path / "out"), "own probability"
    config.annotator.name, config.questions.source = "rules/short-answer", str(tmp_path / "questions.jsonl")
    questions = [{"question": "Where is Gent?", "answer": "Belgium"}, {"question": "Where is Bol?", "answer": "Chad"}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    evaluate_qa.check(config)
    evaluate_qa.run(config, mesh)
    records = rows(tmp_path / "out" / "records.jsonl")
    assert [(r["chosen"], r["confidence"], r["correct"]) for r in records] == [
        ("Belgium", 0.75, True), ("Niger", 0.001, False),
    ]  # fmt: skip


def test_samples_of_short_answers_end_at_a_line_break(wordings):
    config = config_of("generate_data", "")
    config.in_context, config.prompt_dir, config.model = True, str(wordings), str(CHAT)
    assert generate_data._is_few_shot(config)
    assert generate_data._template(config).template == FEW_SHOT
    (wordings / "few_shot.txt").unlink()
    assert not generate_data._is_few_shot(config)
    config.prompt_dir = ""
    assert not generate_data._is_few_shot(config)
    assert strategies.FEW_SHOT in strategies.OF_CHECKPOINTS
