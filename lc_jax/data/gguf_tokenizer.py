"""The tokenizer inside a GGUF file: byte-level BPE ("gpt2") or SentencePiece's BPE ("llama")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from lc_jax.data.memo import memoise
from lc_jax.data.tokenizer import Tokenizer, make_tokenizer
from lc_jax.models.gguf import GGUF

# Values of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# Control tokens that end a turn or a text in every model that has them; files name only one or two of them by id.
END_TEXTS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>", "<|end|>", "<end_of_turn>",
)  # fmt: skip
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # in the place of a space in pieces of SentencePiece


def _split(digits: int) -> list[Any]:
    """Returns pre-tokenizers that make words, and numbers of at most `digits` digits."""
    pattern = tokenizers.Regex(_WORDS % digits)
    return [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]


# tokenizer.ggml.pre -> what splits a text before BPE.
PRE_TOKENIZERS: dict[str, Callable[[], list[Any]]] = {
    "gpt-2": lambda: [pre_tokenizers.ByteLevel(False)],
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)],
    "llama-bpe": lambda: _split(3),
    "qwen2": lambda: _split(1),
}
WHOLE_WORDS = ("llama-bpe",)  # a word that is a token is one, whatever the merges make of it; begins texts with bos


@memoise
def open_gguf(path: str) -> tuple[GGUF, Tokenizer]:
    """Returns a GGUF file and its tokenizer; errors are those of `GGUF` and `read`."""
    file = GGUF(path)
    return file, read(file)


def read(file: GGUF) -> Tokenizer:
    """Returns the tokenizer of `file` with its chat templates, special tokens and all stop tokens.

    Raises:
      ValueError: the kind of tokenizer is not implemented, or a key is missing or does not fit; the message names it.
    """
    from transformers import PreTrainedTokenizerFast

    kind, texts = file.value("tokenizer.ggml.model"), file.value("tokenizer.ggml.tokens")
    kinds = file.value("tokenizer.ggml.token_type", [NORMAL] * len(texts))
    ids = {name: _token_id(file, name, len(texts)) for name in ("bos", "eos", "unknown", "padding", "eot", "eom")}
    if len(kinds) != len(texts) or len(texts) > file.config["vocab_size"]:
        raise ValueError(
            f"{file.path}: {len(texts)} tokens, {len(kinds)} types of tokens and {file.config['vocab_size']} rows of "
            "the embedding do not fit; convert the original model to GGUF again."
        )
    if kind == "gpt2":
        backend, adds_bos = _byte_level(file, texts)
    elif kind == "llama":
        backend, adds_bos = _sentence_piece(file, texts, kinds, ids["unknown"])
    else:
        raise ValueError(
            f"{file.path}: tokenizer.ggml.model={kind!r} is not read, only 'gpt2' and 'llama'; give the model's "
            "Hugging Face folder."
        )
    special = dict.fromkeys(i for i in ids.values() if i is not None) | dict.fromkeys(
        i for i, kind in enumerate(kinds) if kind == CONTROL
    )
    added = sorted({*special, *(i for i, kind in enumerate(kinds) if kind == USER_DEFINED)})
    backend.add_tokens([AddedToken(texts[i], normalized=False, special=i in special) for i in added])
    bos = ids["bos"]
    if file.value("tokenizer.ggml.add_bos_token", adds_bos) and bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=[texts[bos], "$A"], pair=[texts[bos], "$A", texts[bos], "$B"], special_tokens=[(texts[bos], bos)]
        )
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    settings: dict[str, Any] = {key: texts[ids[name]] for key, name in names.items() if ids[name] is not None}
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=file.config["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
        **settings,
    )
    hf.chat_template = _chat_template(file)
    stops = [ids[name] for name in ("eos", "eot", "eom")]
    stops += [i for i, text in enumerate(texts) if kinds[i] == CONTROL and text in END_TEXTS]
    generation: dict[str, Any] = {"eos_token_id": list(dict.fromkeys(i for i in stops if i is not None))}
    generation |= {f"{key[:3]}_token_id": ids[name] for key, name in names.items() if key in ("bos_token", "pad_token")}
    generation = {key: value for key, value in generation.items() if value is not None}
    return make_tokenizer(hf, str(file.path), file.config, generation)


def _token_id(file: GGUF, name: str, num_tokens: int) -> int | None:
    """Returns the id of a special token, or None.

    Raises:
      ValueError: there is no token of this id.
    """
    key = f"tokenizer.ggml.{name}_token_id"
    value = file.metadata.get(key)
    if value is not None and not 0 <= value < num_tokens:
        raise ValueError(f"{file.path}: {key}={value} is none of the {num_tokens} tokens; convert the model again.")
    return value


def _chat_template(file: GGUF) -> str | dict[str, str] | None:
    """Returns the chat template, or all of them by name if there are several."""
    default = file.metadata.get("tokenizer.chat_template")
    names = file.metadata.get("tokenizer.chat_templates", [])
    if not names:
        return default
    templates = {name: file.value(f"tokenizer.chat_template.{name}") for name in names}
    return templates if default is None else {"default": default} | templates


def _byte_level(file: GGUF, texts: Sequence[str]) -> tuple[tokenizers.Tokenizer, bool]:
    """Returns a byte-level BPE tokenizer, and whether its texts begin with bos unless the file says otherwise."""
    pre = file.value("tokenizer.ggml.pre", "gpt-2")
    if pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"{file.path}: tokenizer.ggml.pre={pre!r} is not implemented, only {sorted(PRE_TOKENIZERS)}; give the "
            "model's Hugging Face folder."
        )
    merges = [tuple(merge.split(" ")) for merge in file.value("tokenizer.ggml.merges")]
    vocabulary = {text: i for i, text in enumerate(texts)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in WHOLE_WORDS))
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[pre]())
    backend.decoder = decoders.ByteLevel()
    return backend, pre in WHOLE_WORDS


def _sentence_piece(
    file: GGUF, texts: Sequence[str], kinds: Sequence[int], unknown: int | None
) -> tuple[tokenizers.Tokenizer, bool]:
    """Returns SentencePiece's BPE with byte fallback as a tokenizer with merges; its texts begin with bos.

    SentencePiece joins the two neighbours whose joint piece has the highest score. The same is done by a list of
    merges: all ways to cut a piece into two others, pieces of higher scores first.
    """
    scores = file.value("tokenizer.ggml.scores")
    vocabulary = {text: i for i, text in enumerate(texts)}
    pieces = {text: i for text, i in vocabulary.items() if kinds[i] in (NORMAL, USER_DEFINED, UNUSED)}
    merges = []
    for text in sorted((text for text in pieces if kinds[pieces[text]] == NORMAL), key=lambda t: -scores[pieces[t]]):
        cuts = [(text[:n], text[n:]) for n in range(1, len(text)) if text[:n] in pieces and text[n:] in pieces]
        merges += sorted(cuts, key=lambda cut: (pieces[cut[0]], pieces[cut[1]]))
    unk_token = texts[unknown] if unknown is not None else None
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True)
    )
    adds_space = file.value("tokenizer.ggml.add_space_prefix", True)
    replace = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace] if adds_space else [replace])
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if adds_space else steps)
    return backend, True
