"""Tiny configs of transformers that use every switch of each family. A window of 5 tokens ends within every row."""

import transformers

VOCAB, PAD = 97, 96
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
    initializer_range=0.2,  # large, so that attention is far from uniform and greedy tokens are clear
)
IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=PAD)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=2.0)


def llama(**changes):
    return transformers.LlamaConfig(**(SHAPE | IDS | changes))


def neox(pct, **changes):
    rope = dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=pct)
    ids = dict(bos_token_id=0, eos_token_id=0, pad_token_id=PAD)
    return transformers.GPTNeoXConfig(**(SHAPE | ids | dict(rope_parameters=rope) | changes))


def mistral(**changes):
    return transformers.MistralConfig(**(SHAPE | IDS | dict(num_key_value_heads=2, sliding_window=5) | changes))


def qwen2(**changes):
    windows = dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)
    return transformers.Qwen2Config(**(SHAPE | IDS | dict(num_key_value_heads=2) | windows | changes))


def qwen3(**changes):
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    windows = dict(use_sliding_window=True, sliding_window=5, layer_types=types)
    return transformers.Qwen3Config(**(SHAPE | IDS | dict(num_key_value_heads=2, head_dim=16) | windows | changes))


def olmo2(**changes):
    return transformers.Olmo2Config(**(SHAPE | IDS | dict(num_key_value_heads=2) | changes))


def olmo3(**changes):
    ropes = dict(sliding_attention=dict(rope_type="default", rope_theta=700.0), full_attention=dict(YARN))
    kinds = dict(sliding_window=5, rope_parameters=ropes, num_hidden_layers=4)
    return transformers.Olmo3Config(**(SHAPE | IDS | dict(num_key_value_heads=2) | kinds | changes))


def smollm3(**changes):
    kinds = dict(no_rope_layer_interval=2, use_sliding_window=True, sliding_window=5)
    return transformers.SmolLM3Config(**(SHAPE | IDS | dict(num_key_value_heads=2) | kinds | changes))


def phi3(**changes):
    """Heads of 8, of which 6 are rotated in 3 planes; rows of up to 64 tokens have the short factors."""
    rope = dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75)
    rope |= dict(short_factor=[1.0, 1.5, 2.5], long_factor=[2.0, 4.0, 8.0])
    lengths = dict(original_max_position_embeddings=64, max_position_embeddings=256)
    kinds = dict(rope_parameters=rope, num_key_value_heads=2, sliding_window=5)
    return transformers.Phi3Config(**(SHAPE | IDS | lengths | kinds | changes))


def gemma2(**changes):
    caps = dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=24)
    shape = dict(num_key_value_heads=2, head_dim=16, sliding_window=5, initializer_range=0.1)
    return transformers.Gemma2Config(**(SHAPE | IDS | shape | caps | changes))


def gemma3(**changes):
    ropes = dict(sliding_attention=dict(rope_type="default", rope_theta=100.0), full_attention=dict(LINEAR))
    kinds = dict(layer_types=["sliding_attention"] * 2 + ["full_attention"], sliding_window=5, rope_parameters=ropes)
    shape = dict(num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=24, initializer_range=0.1)
    return transformers.Gemma3TextConfig(**(SHAPE | IDS | shape | kinds | changes))


def granite(**changes):
    factors = dict(embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=2.5)
    return transformers.GraniteConfig(**(SHAPE | IDS | dict(num_key_value_heads=2) | factors | changes))


LLAMA_AND_NEOX = {
    "llama": lambda: llama(),
    "llama_gqa": lambda: llama(num_key_value_heads=2),
    "llama_one_kv_head": lambda: llama(num_key_value_heads=1),
    "llama_wide_heads": lambda: llama(head_dim=16, num_key_value_heads=2),
    "llama_tied": lambda: llama(tie_word_embeddings=True),
    "llama_biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama_theta": lambda: llama(rope_parameters=dict(rope_type="default", rope_theta=1234.0)),
    "llama3": lambda: llama(rope_parameters=LLAMA3, num_key_value_heads=2),
    "neox_parallel": lambda: neox(0.25),
    "neox_sequential": lambda: neox(0.25, use_parallel_residual=False),
    "neox_whole_heads": lambda: neox(1.0),
    "neox_redpajama": lambda: neox(1.0, use_parallel_residual=False),
    "neox_tied": lambda: neox(0.5, tie_word_embeddings=True),
    "neox_no_bias": lambda: neox(0.25, attention_bias=False),
    "neox_tanh": lambda: neox(0.25, hidden_act="gelu_pytorch_tanh"),
}
OTHERS = {
    "mistral": lambda: mistral(),
    "mistral_full": lambda: mistral(sliding_window=None, head_dim=16),
    "qwen2": lambda: qwen2(),
    "qwen2_yarn_tied": lambda: qwen2(use_sliding_window=False, rope_parameters=YARN, tie_word_embeddings=True),
    "qwen2_of_nine_layers": lambda: qwen2(num_hidden_layers=9, max_window_layers=4, initializer_range=0.1),
    "qwen3": lambda: qwen3(attention_bias=True),
    "qwen3_linear": lambda: qwen3(rope_parameters=LINEAR),
    "qwen3_yarn": lambda: qwen3(rope_parameters=YARN | dict(attention_factor=1.3, beta_fast=4.0, truncate=False)),
    "olmo2": lambda: olmo2(attention_bias=True),
    "olmo3": lambda: olmo3(),
    "smollm3": lambda: smollm3(attention_bias=True, mlp_bias=True),
    "smollm3_untied": lambda: smollm3(use_sliding_window=False, tie_word_embeddings=False),
    "phi3": lambda: phi3(),
    "phi3_default": lambda: phi3(
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
        sliding_window=None,
        original_max_position_embeddings=256,
    ),
    "gemma2": lambda: gemma2(),
    "gemma2_without_softcaps": lambda: gemma2(attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma3": lambda: gemma3(),
    "gemma3_softcap_bias": lambda: gemma3(final_logit_softcapping=3.0, attention_bias=True),
    "granite": lambda: granite(attention_bias=True, mlp_bias=True),
    "granite_tied": lambda: granite(tie_word_embeddings=True, rope_parameters=LINEAR),
}
# A set that has every switch, for tests that compile much.
SOME = ["qwen2", "qwen3", "olmo3", "smollm3", "phi3", "gemma2", "gemma3", "granite"]
