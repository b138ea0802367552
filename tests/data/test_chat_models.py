"""Chat models with hostile templates and special tokens, by token ids that a person can check."""

import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors

from lc_jax.data import examples
from lc_jax.data.tokenizer import load_templates_for, load_tokenizer, make_tokenizer, resolve_templates
from lc_jax.inference.writing import Decoding
from lc_jax.prompts import load_templates
from lc_jax.types import Example, Message

transformers = pytest.importorskip("transformers")

UNK, BOS, EOS, START, END, USER, REPLY, SYSTEM, LINE, A, B = range(11)
TOKENS = ["<unk>", "<s>", "</s>", "<|start|>", "<|end|>", "u", "r", "s", "\n", "a", "b"]
LETTERS = [*"cdefghijklmnopqtvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .:{}-"]
# <|start|>u\nTEXT<|end|> for each message, then <|start|>r\n
TURNS = (
    "{% for m in messages %}{{ '<|start|>' + {'user': 'u', 'assistant': 'r', 'system': 's'}[m['role']] + '\n' }}"
    "{{ m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>r\n' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + TURNS
WITH_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|start|>s\nbb<|end|>' }}{% endif %}" + TURNS
ASK = (Message("user", "ab"),)
TURN = [START, USER, LINE, A, B, END, START, REPLY, LINE]


def make(template=None, adds_bos=False, generation=None, config=None, special=TOKENS[:5], **tokens):
    """A tokenizer with one token a character, whose special tokens are `special`."""
    backend = Backend(models.BPE({t: i for i, t in enumerate([*TOKENS, *LETTERS])}, [], unk_token="<unk>"))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(special))
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    hf.chat_template = template
    return make_tokenizer(hf, "hostile", config, generation)


def trained(tokenizer, target="b", prompt=ASK):
    return examples.encode_sft(tokenizer, Example("", prompt, target), 64)


def test_one_begin_of_sequence_token_where_template_and_tokenizer_both_add_it():
    tokenizer = make(WITH_BOS, adds_bos=True, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert tokenizer.encode_prompt(ASK) == [BOS, *TURN]
    assert tokenizer.encode_prompt("ab") == [BOS, A, B]
    assert trained(tokenizer) == examples.Encoded((BOS, *TURN, B, END), 10)
    assert trained(tokenizer, prompt="a") == examples.Encoded((BOS, A, B, EOS), 2)


def test_none_where_the_template_leaves_it_out_as_in_transformers():
    tokenizer = make(TURNS, adds_bos=True, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    theirs = tokenizer.hf.apply_chat_template([{"role": "user", "content": "ab"}], add_generation_prompt=True)
    assert tokenizer.encode_prompt(ASK) == TURN == theirs["input_ids"]


def test_a_default_system_message_is_in_the_prompt_and_not_in_the_target():
    tokenizer = make(WITH_SYSTEM, bos_token="<s>", eos_token="<|end|>", unk_token="<unk>")
    system = [START, SYSTEM, LINE, B, B, END]
    assert tokenizer.encode_prompt(ASK) == [*system, *TURN]
    assert tokenizer.encode_prompt((Message("system", "a"), *ASK)) == [START, SYSTEM, LINE, A, END, *TURN]
    assert trained(tokenizer) == examples.Encoded((*system, *TURN, B, END), 15)


@pytest.mark.parametrize(
    ("files", "stop_ids", "eos"),
    [
        (dict(generation={"eos_token_id": [END, EOS]}), (END, EOS), END),
        (dict(generation={"eos_token_id": EOS}), (EOS, END), EOS),
        (dict(config={"eos_token_id": EOS, "vocab_size": 99}), (EOS, END), EOS),
        (dict(), (END,), END),  # of the template
    ],
)
def test_an_end_of_sequence_token_that_only_other_files_name(files, stop_ids, eos):
    tokenizer = make(TURNS, bos_token="<s>", unk_token="<unk>", **files)
    assert (tokenizer.stop_ids, tokenizer.eos_id, tokenizer.end_of_turn_id) == (stop_ids, eos, END)
    assert Decoding(4, 0.0, 0, 1).sampling(tokenizer).eos_ids == stop_ids
    assert trained(tokenizer).tokens == (*TURN, B, END)
    assert trained(tokenizer, prompt="a").tokens == (A, B, eos)


def test_a_tokenizer_whose_end_is_named_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"'hostile' has no end-of-sequence token; set eos_token"):
        make(bos_token="<s>")


@pytest.mark.parametrize("pad", ["</s>", "<|end|>", "<unk>", "<s>", None])
def test_a_pad_with_another_use_is_replaced_by_one_that_no_text_has(tmp_path, pad):
    pad_id = TOKENS.index(pad) if pad else None
    tokenizer = make(
        TURNS, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=pad,
        generation={"eos_token_id": [EOS, END]} | ({"pad_token_id": pad_id} if pad else {}),
    )  # fmt: skip
    assert tokenizer.pad_id is None  # it may be drawn
    assert Decoding(4, 0.0, 0, 1).sampling(tokenizer).pad_id is None
    ready = tokenizer.with_pad_token()
    assert ready.pad_id == len(TOKENS) + len(LETTERS) == len(ready) - 1
    assert trained(ready, "b%").tokens == (*TURN, B, UNK, END)  # "%" is none of its letters
    ready.save(tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation.get("pad_token_id") == (ready.pad_id if pad else None)
    again = load_tokenizer(tmp_path)
    assert (again.pad_id, again.stop_ids, again.encode_prompt(ASK)) == (ready.pad_id, (EOS, END), TURN)


def test_a_pad_of_its_own_is_left_as_it_is():
    tokenizer = make(TURNS, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="x")
    assert tokenizer.with_pad_token().pad_id == tokenizer.pad_id == 11 + LETTERS.index("x")


def test_auto_is_the_conversation_of_a_chat_model_and_the_instruction_form_of_any_other(tmp_path):
    tokens = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="x")
    for name, template in {"chat": WITH_SYSTEM, "base": None}.items():
        make(template, **tokens).save(tmp_path / name)
    fine_tuned = make(None, **tokens)
    fine_tuned.add_chat_template(load_templates("full").paragraph)
    fine_tuned.save(tmp_path / "fine_tuned")
    assert load_tokenizer(tmp_path / "fine_tuned").hf.chat_template
    folders = {name: str(tmp_path / name) for name in ("chat", "base", "fine_tuned")}
    assert {name: resolve_templates(folder, "auto") for name, folder in folders.items()} == {
        "chat": "chat", "base": "full", "fine_tuned": "full",
    }  # fmt: skip
    assert {resolve_templates(folder, "short") for folder in folders.values()} == {"short"}
    ask = load_templates_for(folders["chat"], "auto").paragraph.prompt_text(paragraph_generation_prompt="ab")
    assert load_tokenizer(folders["chat"]).encode_prompt(ask)[-len(TURN) :] == TURN
    for name in ("base", "fine_tuned"):
        assert load_templates_for(folders[name], "auto") == load_templates("full")
    assert load_templates("auto") == load_templates("full")  # where there is no model to look at
