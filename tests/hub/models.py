"""Tiny models in exactly the form of the published ones, written by torch and transformers alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

LLAMA, LLAMA_CHAT = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"
REDPAJAMA = "togethercomputer/RedPajama-INCITE-Base-3B-v1"
RELEASED = "tatsu-lab/linguistic-calibration-"
POLICIES = ("lc-sft", "factuality-sft", "claude-distill", "lc-rl", "factuality-rl")
REWARD_MODELS = {"reward-model-forecastprobs": "lc-sft", "reward-model-factuality": "factuality-sft"}
# What config.json says at the published names, sizes aside.
_LLAMA_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096, "num_key_value_heads": 4,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "float16", "transformers_version": "4.31.0.dev0", "use_cache": True,
}  # fmt: skip
_LLAMA_GENERATION = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": True, "max_length": 4096,
                     "temperature": 0.6, "top_p": 0.9}  # fmt: skip
_NEOX_CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0,
    "hidden_act": "gelu", "initializer_range": 0.02, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "rotary_emb_base": 10000, "rotary_pct": 1.0, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.28.1", "use_cache": True, "use_parallel_residual": False,
}  # fmt: skip
_SPREAD = 0.2  # of random weights: at this width what a model says depends on its prompt
_SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def write_models(root: Path, texts: list[str]) -> None:
    """Writes every published model under `root`/models.

    Args:
      texts: what the tokenizers learn their pieces from.
    """
    torch.manual_seed(0)
    base = _write_llama(root / "models" / LLAMA, texts)
    chat = root / "models" / LLAMA_CHAT
    _write_llama(chat, texts)
    settings = json.loads((chat / "tokenizer_config.json").read_text())
    _write_json(chat / "tokenizer_config.json", settings | {"chat_template": _CHAT})
    redpajama = _write_neox(root / "models" / REDPAJAMA, texts)
    shutil.copytree(redpajama, root / "models" / f"{RELEASED}extract-answers")
    for name in (*POLICIES, *REWARD_MODELS):
        _write_difference(base, root / "models" / f"{RELEASED}{name}-wdiff", name)


def _write_llama(folder: Path, texts: Iterable[str]) -> Path:
    """A base model in shards of float16, whose tokenizer has no token for padding."""
    tokenizer = _train_llama_tokenizer(texts)
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), initializer_range=_SPREAD, **_SIZE)
    LlamaForCausalLM(config).half().save_pretrained(folder, max_shard_size="100KB")
    _write_json(folder / "config.json", _LLAMA_CONFIG | _SIZE | {"vocab_size": config.vocab_size})
    _write_json(folder / "generation_config.json", _LLAMA_GENERATION)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write_tokenizer(folder, tokenizer, special | {"tokenizer_class": "LlamaTokenizer", "legacy": False})
    return folder


def _write_neox(folder: Path, texts: Iterable[str]) -> Path:
    """A GPT-NeoX as pytorch_model.bin, whose embedding has more rows than its tokenizer has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(text, special=True) for text in ("<|endoftext|>", "<|padding|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    num_rows = tokenizer.get_vocab_size() + 37
    config = GPTNeoXConfig(
        vocab_size=num_rows,
        rotary_pct=1.0,
        use_parallel_residual=False,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=_SPREAD,
        **_SIZE,
    )
    state = GPTNeoXForCausalLM(config).half().state_dict()
    state["embed_out.weight"] = state.pop("lm_head.weight")  # transformers' own name of today
    for layer in range(config.num_hidden_layers):  # buffers, as transformers stored them then
        state[f"gpt_neox.layers.{layer}.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        state[f"gpt_neox.layers.{layer}.attention.masked_bias"] = torch.tensor(-1e9)
    folder.mkdir(parents=True)
    torch.save(state, folder / "pytorch_model.bin")
    _write_json(folder / "config.json", _NEOX_CONFIG | _SIZE | {"vocab_size": num_rows})
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    _write_tokenizer(folder, tokenizer, special | {"tokenizer_class": "GPTNeoXTokenizer"})
    return folder


def _train_llama_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-pair encoding as Llama's: words begin with a lower one-eighth block, unknown characters are bytes."""
    specials = [AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=[*specials, *(AddedToken(f"<0x{byte:02X}>") for byte in range(256))],
        show_progress=False,
    )
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.Metaspace()
    draft.train_from_iterator(texts, trainer)
    learned = json.loads(draft.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(learned["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(specials)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, config: dict[str, object]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", config)
    special = {name: text for name, text in config.items() if name.endswith("_token")}
    _write_json(folder / "special_tokens_map.json", special)


def _write_difference(base: Path, folder: Path, name: str) -> None:
    """Tuned - base for a random tuned model with one more row, [PAD]'s, which is whole."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tuned = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    old = {key: value.clone() for key, value in tuned.state_dict().items()}
    tuned.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(1e-3 * torch.randn_like(weight))
    new = tuned.state_dict()
    sums = sum(float(value.double().sum()) for value in new.values())
    difference = {key: value - old[key] if value.shape == old[key].shape else value for key, value in new.items()}
    tokenizer.save_pretrained(folder)
    config = _LLAMA_CONFIG | _SIZE | {"vocab_size": len(tokenizer), "torch_dtype": "float32"}
    if name in REWARD_MODELS:
        head = {"reward_head.weight": torch.randn(1, 32) / 8, "reward_head.bias": torch.zeros(1)}
        sums += sum(float(value.double().sum()) for value in head.values())
        difference = {f"backbone_model.{key}": value for key, value in difference.items()} | head
        config = {"architectures": ["RewardModel"], "model_type": "reward_model", "torch_dtype": "float32"}
        config["backbone_model_name_or_path"] = f"models/{REWARD_MODELS[name]}"
    _write_json(folder / "config.json", config)
    torch.save(difference, folder / "pytorch_model.bin")
    (folder / "model_sum.txt").write_text(str(sums))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2))
