"""Arbitrary config.json keys, row files, replies and flags: each gives a right result, or one line "error: ...".

A failure that main would call an internal error, a message of several lines, or a file that is half written fails the
test. 200 examples of each kind here; 5,000 by

    LC_FUZZ_EXAMPLES=5000 python -m pytest tests/test_fuzz.py

which draws new ones each time and prints the smallest that fails.
"""

import contextlib
import functools
import gzip
import importlib
import json
import math
import os
import tempfile
import traceback
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_jax import main, parallel, prompts
from lc_jax import settings as command_line
from lc_jax.data import examples, questions, rows
from lc_jax.evaluation import biography, qa
from lc_jax.llm import AnnotatorError, anthropic, openai
from lc_jax.llm.data_tasks import data_tasks
from lc_jax.llm.failures import Transient
from lc_jax.models import folders, hf
from lc_jax.prompts import Invalid, confidence, equivalence, summarize

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "lc_jax" / "miniature" / "checkpoints"
EXAMPLES = int(os.environ.get("LC_FUZZ_EXAMPLES", "200"))

fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 200,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def outcome(function, *names):
    """Returns the result of `function`, or None where main would print one line that has one of `names`."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        lines, code = main.explain(error)
        details = "".join(traceback.format_exception(error))
        assert code == 1, details
        assert lines, details
        for line in lines:
            assert line.strip(), details
            assert len(line.splitlines()) == 1, details
            assert not names or any(name in line for name in names), f"{line!r} names none of {names}\n{details}"
        return None


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


numbers = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 64, 10**9, -(10**9), 2**31, 2**63, 10**30, 0.0, -0.5, 1.5, 1e308, math.nan, math.inf]
    ),
    st.integers(),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


# --- config.json ------------------------------------------------------------------------------------------------------

OTHER_KEYS = [
    "rope_scaling", "rope_parameters", "sliding_window", "head_dim", "quantization_config", "torch_dtype", "dtype",
    "eos_token_id", "pad_token_id", "hidden_act", "architectures", "layer_types", "num_key_value_heads", "rope_theta",
    "auto_map", "pretraining_tp", "attention_bias", "rotary_pct", "rotary_emb_base", "use_parallel_residual",
    "partial_rotary_factor", "backbone_config", "reward_model", "transformers_version", "vocab_size", "hidden_size",
]  # fmt: skip
REMOVED = object()


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def checkpoint(request, tmp_path_factory):
    """A checkpoint folder whose weights are links, and the contents of its config.json."""
    path = tmp_path_factory.mktemp(request.param)
    source = CHECKPOINTS / request.param
    for file in source.iterdir():
        (path / file.name).symlink_to(file)
    (path / "config.json").unlink()
    return path, json.loads((source / "config.json").read_text())


@functools.cache
def mesh():
    return parallel.make_mesh()


@fuzz
@given(data=st.data())
def test_config_json(checkpoint, data):
    path, config = checkpoint
    keys = st.sampled_from(sorted({*config, *OTHER_KEYS}))
    changes = data.draw(st.dictionaries(keys, st.one_of(st.just(REMOVED), scalars, values), min_size=1, max_size=2))
    changed = {key: value for key, value in (config | changes).items() if value is not REMOVED}
    (path / "config.json").write_text(json.dumps(changed))
    parsed = outcome(lambda: folders.config_of(path), "config.json", *changes)
    if parsed is None or changes.keys() & {"tie_word_embeddings", "num_hidden_layers"}:
        return
    model = outcome(lambda: hf.load(path, mesh(), kind=parsed[1], fresh_head=True), str(path), *changes)
    if model is None:
        return
    shapes = {tuple(leaf.shape) for leaf in jax.tree.leaves(model.params)}  # the file's, whatever the config said
    assert all(max(shape) < 10**5 for shape in shapes)


@fuzz
@given(text=st.one_of(st.text(max_size=30), values.map(json.dumps), st.just('{"a":' * 5000)))
def test_config_json_of_any_text(text):
    with folder() as path:
        (path / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        (path / "model.safetensors").touch()
        assert outcome(lambda: folders.config_of(path), "config.json") is None


# --- files of rows ----------------------------------------------------------------------------------------------------

COLUMNS = [
    "id", "question_id", "question", "answer", "answers", "aliases", "ground_truth_top_answer", "prompt", "completion",
    "messages", "text", "title", "entity", "label", "prompt_tokens", "completion_tokens", "generated_paragraph",
    "paragraph_generation_prompt", "claude_summary", "icl_generated_paragraphs", "claude_generated_paragraph",
    "lc_sft_generated_paragraph", "lc_sft_ground_truth_and_extracted_answers", "lc_sft_forecasted_probs",
    "factuality_sft_generated_paragraph", "factuality_sft_binary_correctness", "generated_answers",
]  # fmt: skip
texts = st.text(max_size=30)
row = st.dictionaries(st.one_of(st.sampled_from(COLUMNS), texts), values, max_size=6)
good_row = st.fixed_dictionaries(
    dict.fromkeys(COLUMNS[1:4], texts) | {"paragraph_generation_prompt": texts, "claude_summary": texts}
)
table = st.lists(st.one_of(row, good_row, good_row.flatmap(lambda base: row.map(lambda more: base | more))), max_size=5)


def _csv(table, delimiter):
    names = list(dict.fromkeys(name for r in table for name in r))
    lines = [delimiter.join(names), *(delimiter.join(str(r.get(name, "")) for name in names) for r in table)]
    return "\n".join(lines)


contents = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda text, encoding: text.encode(encoding, "surrogatepass"),
        st.one_of(
            table.map(lambda t: "\n".join(map(json.dumps, t))),
            table.map(json.dumps),
            table.map(lambda t: json.dumps({"data": t})),
            table.map(lambda t: json.dumps(t)[:-3]),
            st.builds(_csv, table, st.sampled_from([",", ";", "\t"])),
            values.map(json.dumps),
            st.just("[" * 20_000),
        ),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    ),
)
endings = st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".parquet", ".txt", ".JSONL", ""])


@functools.cache
def templates():
    return prompts.load_templates("short")


def _is_text_of_rows(value):
    return all(isinstance(name, str) for one in value for name in one)


@fuzz
@given(content=contents, ending=endings, squeezed=st.booleans(), recipe=st.sampled_from(sorted(examples.RECIPES)))
def test_files_of_rows(content, ending, squeezed, recipe):
    with folder() as path:
        file = path / f"mine{ending}"
        file.write_bytes(gzip.compress(content) if squeezed and ending.endswith(".gz") else content)
        loaded = outcome(lambda: rows.load_rows(file), "mine")
        outcome(lambda: rows.load_placed_rows(file), "mine")
        outcome(lambda: questions.load_questions(file), "mine")
        if loaded is not None:
            assert _is_text_of_rows(loaded)
            split = outcome(lambda: examples.make_examples(recipe, loaded, templates()))
            for example in split[0] if split else []:
                assert isinstance(example.prompt, str)
                assert example.target or 0 <= example.label <= 1 or recipe.startswith(("sft", "extract"))
            outcome(lambda: questions.raw_questions(loaded, file), "mine")
        assert [child.name for child in path.iterdir()] == [file.name]


# --- replies ----------------------------------------------------------------------------------------------------------

TASKS = {
    "qa": qa.TASKS,
    "biography": biography.TASKS,
    "generate_data": data_tasks(False, False),
    "generate_data published": data_tasks(True, True),
}
PARSED = {f"{part}.{name}": task.prompt for part, tasks in TASKS.items() for name, task in tasks.items()}
BATCHES = {
    "comparisons": equivalence.join_comparisons([equivalence.Comparison("What?", "Paris", "Lyon")] * 2),
    "statements": confidence.join_statements(["One.", "Two."]),
    "paragraphs": summarize.join_paragraphs(["One.", "Two."]),
}
marks = st.sampled_from(
    ["<think>", "</think>", "```json\n", "```", "**", "[", "]", "{", "}", '"', "'", ":", ",", "\n", "%", "0.5", "yes",
     "No", "1.", "Answer", "null", "NaN", "1e999", "\\boxed{", "No answers.", "(", ")", "\ud800", "é", "9" * 5000]
)  # fmt: skip
replies = st.one_of(
    st.text(max_size=80),
    st.lists(st.one_of(marks, st.text(max_size=6)), max_size=25).map("".join),
    values.map(json.dumps),
    values.map(repr),
    st.sampled_from(["[" * 20_000, "(" * 20_000, '{"a":' * 20_000, "-" * 20_000, "1" * 10_000]),
)


@pytest.mark.parametrize("name", sorted(PARSED))
@settings(fuzz, max_examples=max(EXAMPLES // len(PARSED), 50))
@given(reply=replies)
def test_replies(name, reply):
    prompt = PARSED[name]
    fields = dict.fromkeys(prompt.fields, "A town. 1. Paris vs. Rome") | BATCHES
    with contextlib.suppress(Invalid):
        value = prompt.parse(reply, fields)
        json.dumps(value, default=vars)
        if isinstance(value, float):
            assert 0 <= value <= 1


def _body(provider, text):
    if provider is openai:
        choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "index": 0}]
        return {"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "model": "m"}
    counts = {"input_tokens": 1, "output_tokens": 1}
    return {
        "content": [{"type": "text", "text": text}],
        "usage": counts,
        "stop_reason": "end_turn",
        "role": "assistant",
    }


def _changed(data, value, depth=4):
    """`value` with something in it replaced or removed."""
    if depth and isinstance(value, dict) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(value)))
        rest = {k: v for k, v in value.items() if k != key}
        return rest if data.draw(st.booleans()) else {**rest, key: _changed(data, value[key], depth - 1)}
    if depth and isinstance(value, list) and value and data.draw(st.booleans()):
        return [_changed(data, value[0], depth - 1)]
    return data.draw(values)


@pytest.mark.parametrize("provider", [openai, anthropic], ids=["openai", "anthropic"])
@fuzz
@given(data=st.data())
def test_bodies_of_servers(provider, data):
    body = _changed(data, _body(provider, "It is Paris."))
    annotator = provider.load("m", base_url="http://localhost:9/v1")
    annotator.client = type("Client", (), {"api_key": "k"})()
    try:
        reply = provider.read(body)
    except Exception as error:
        try:
            reply = annotator.explain(error, 1.0)
        except AnnotatorError:  # the run ends with its line
            return
    if isinstance(reply, Transient):  # asked again
        return
    assert isinstance(reply.text, str)
    assert reply.usage is None or all(
        isinstance(n, int) and n >= 0 for n in (reply.usage.input_tokens, reply.usage.output_tokens)
    )


# --- flags ------------------------------------------------------------------------------------------------------------

EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "base")
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
flag_values = st.one_of(
    words,
    numbers.map(str),
    st.sampled_from(["", "None", "true", "~", "~/x", "~nobody/x", "file:///x", "file://h/x", "/", ".", "(1,", "[]"]),
    st.sampled_from(["float16", "adamw", "cosine", "leave_one_out", "miniature", "a/b", "simulated/miniature"]),
)


MODES = {"pretrain": ["llama", "gpt_neox"], "evaluate_qa": ["mini", "sciq", "bioasq"]}


@functools.cache
def defaults(experiment, mode):
    return dict(command_line.flat(command_line.load(f"configs/{experiment}.py", mode)))


def _of_type(value):
    """Values that a setting may well be given."""
    if isinstance(value, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(value, int):
        return st.integers(-2, 300).map(str)
    if isinstance(value, float):
        return st.one_of(st.integers(-1, 2), st.floats(-1, 2)).map(str)
    return st.just(str(value))


@st.composite
def command_lines(draw):
    experiment = draw(st.sampled_from(EXPERIMENTS))
    mode = draw(st.sampled_from(MODES.get(experiment, ["mini"])))
    names = defaults(experiment, mode)
    help_mode = draw(st.sampled_from([mode] * 12 + ["", "sciq", "other"]))
    arguments = [f"--config=configs/{experiment}.py:{help_mode}"]
    for name in sorted({"output", "method", "destination"} & set(names)):
        arguments += [f"--config.{name}=new"] * draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 0]))
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(sorted(names)))
        wrong = draw(st.sampled_from([False] * 9 + [True]))
        value = draw(flag_values if wrong else _of_type(names[name]))
        form = draw(st.sampled_from(["--config.{}={}"] * 20 + ["--config.{}", "--noconfig.{}", "--{}={}"]))
        arguments.append(form.format(draw(words) if draw(st.integers(0, 30)) == 30 else name, value))
    return draw(st.permutations(arguments))


@fuzz
@given(arguments=command_lines())
def test_flags(arguments):
    """Parsing and the checks of a task, with nothing after them."""
    with folder() as path, contextlib.chdir(path), pytest.MonkeyPatch.context() as patch:
        configs = []
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "LC_OUTPUT"):
            patch.delenv(name, raising=False)
        for file in (ROOT / "lc_jax" / "tasks").glob("[a-z]*.py"):
            task = importlib.import_module(f"lc_jax.tasks.{file.stem}")
            patch.setattr(task, "run", lambda config, mesh: configs.append(config))
            patch.setattr(task, "needs_devices", lambda config: False, raising=False)
            patch.setattr(task, "RECORD", "", raising=False)
        outcome(lambda: main.run_task(main.parse_flags(["lc_jax.main", *arguments])))
        assert list(path.iterdir()) == []  # checks write nothing
        for config in configs:
            assert 0 <= config.seed < 2**31
            assert all(np.isfinite(v) or math.isinf(v) for _, v in command_line.flat(config) if isinstance(v, float))
