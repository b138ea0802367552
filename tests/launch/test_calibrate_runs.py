"""launch/calibrate.sh from end to end: a tiny chat model, a file of ten questions, a report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lc_jax.data.jsonl import read_jsonl

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CITIES = {
    "Lyon": "France",
    "Turin": "Italy",
    "Porto": "Portugal",
    "Bergen": "Norway",
    "Malaga": "Spain",
    "Graz": "Austria",
    "Lodz": "Poland",
    "Brno": "Czechia",
    "Cork": "Ireland",
    "Basel": "Switzerland",
}


def write_model(folder, texts):
    """A tiny Llama that knows nothing, and a byte-level tokenizer that has a chat template."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(set("".join(texts)) - {" "}) + ["Ġ", "Ċ"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=160, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(texts * 5, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>",
                                                     pad_token="<|endoftext|>")  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, eos_token_id=2, pad_token_id=0, bos_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    learn_to_answer(model, tokenizer)
    model.save_pretrained(folder)


def learn_to_answer(model, tokenizer):
    """Teaches the form of an answer, some country: words of random letters could not be read as one."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    cities, countries = list(CITIES), list(CITIES.values())
    for step in range(200):
        pairs = [(cities[(step + i) % 10], countries[(3 * step + 7 * i) % 10]) for i in range(4)]
        text = "".join(f"Question: In which country is the city of {a}?\nAnswer: {b}\n\n" for a, b in pairs)
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    questions = {f"In which country is the city of {city}?": country for city, country in CITIES.items()}
    texts = [f"{q} The answer is {a} (75%). It could also be {a} (25%)." for q, a in questions.items()]
    write_model(folder / "model", [*texts, "0123456789 system user assistant\nQuestion: Answer:", "abcdefghijklm"])
    rows = [{"question": q, "answer": a} for q, a in questions.items()]
    bad = [{"question": "Who?", "answer": None}, {"answer": "no question"}, rows[0]]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *bad]))
    (folder / "towns.csv").write_text("question,answer\nIn which country is the city of Ghent?,Belgium\n")
    # Enough steps for so small a model to learn the form of a statement.
    small = (ROOT / "launch" / "profiles" / "calibrate-small.flags").read_text()
    learning = "sft_lc --config.optimizer.learning_rate=1e-2 --config.fit.num_epochs=60\n"
    (folder / "settings.flags").write_text(small + learning)
    return folder


def calibrate(folder, *arguments):
    script, data = ROOT / "launch" / "calibrate.sh", folder / "questions.jsonl"
    command = [
        "bash",
        str(script),
        f"--model={folder}/model",
        f"--questions={data}",
        f"--output={folder}/out",
        f"--profile={folder}/settings.flags",
        *arguments,
    ]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    packages = os.pathsep.join(map(str, (ROOT / "tests" / "without_torch", ROOT)))
    environment = os.environ | {"LC_SETUP": "none", "PATH": path, "PYTHONPATH": packages}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_ten_questions_and_a_chat_model_end_with_a_report(folder):
    questions = folder / "questions.jsonl"
    code, output = calibrate(folder, "--plan")
    assert code == 0, output
    assert "LC RL, seed 0" in output
    assert not (folder / "out" / "lc_sft").exists()
    code, output = calibrate(folder, "--check")
    assert code == 0, output
    assert "Nothing stops the" in output
    code, output = calibrate(folder, f"--test=towns={folder}/towns.csv")
    # Asked for a percentage, this model says nothing that can be read: the other rows are there, and the end says so.
    assert code == 1, output
    missing = [line for line in output.splitlines() if line.startswith("left out: ")]
    assert missing == [
        f"left out: evaluate asked for a percentage on {x} (the error is above)" for x in ("test", "towns")
    ]
    left_out = read_jsonl(folder / "out" / "data" / "left_out.jsonl")
    assert [(row["place"], row["reason"]) for row in left_out] == [
        (f"{questions}, line 11", "missing answer"),
        (f"{questions}, line 12", "missing question"),
        (f"{questions}, line 13", f"repeats the question of {questions}, line 1"),
    ]
    rows = json.loads((folder / "out" / "results.json").read_text())
    methods = {(row["data"], row["method"]) for row in rows}
    assert methods >= {("test", name) for name in ("few shots", "agreement of samples", "LC SFT", "LC RL")}
    assert "LC RL" in (folder / "out" / "report.html").read_text()
    assert (folder / "out" / "lc_rl" / "seed0" / "model" / "config.json").is_file()
    assert "1 validation questions are too few for recalibration" in output
    code, again = calibrate(folder, f"--test=towns={folder}/towns.csv")
    assert code == 1, again
    assert "LC RL, seed 0: done before" in again
