"""The miniature world's own tokenizer: byte-level BPE of a few thousand pieces, with Llama's special tokens."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lc_jax.miniature import corpus
from lc_jax.miniature.world import World

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS, PAD = "<s>", "</s>", "[PAD]"
# A percentage in brackets is one piece, so that one token states a confidence; so is a number of millions.
PIECES = r" ?\(\d+%\)| ?\d+%| ?\d+ million| ?\d+(?:,\d+)*| ?\p{L}+| ?[^\s\p{L}\d]|\s+"
# A template ends in "Answers:" and its target follows directly. The space makes its first word the same token as in
# the paragraph from which it is copied.
AFTER_COLON = (r":(?=\S)", ": ")


def train(world: World, vocab_size: int) -> Tokenizer:
    """Trains the tokenizer on the world's corpus. Every percentage from 0 to 100 in tens is one token."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    pattern, replacement = AFTER_COLON
    tokenizer.normalizer = normalizers.Replace(Regex(pattern), replacement)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(t, special=True) for t in (BOS, EOS, PAD)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stream = corpus.documents(world, np.random.default_rng(0))
    tokenizer.train_from_iterator((a + b for a, b in itertools.islice(stream, 30_000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """Saves a folder that transformers.AutoTokenizer loads."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    config = special | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (directory / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
