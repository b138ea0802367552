"""Trains the miniature world's base models from scratch; the package contains the results.

python -m lc_jax.main --config=configs/pretrain.py:llama          2 CPU cores
python -m lc_jax.main --config=configs/pretrain.py:gpt_neox
"""

from ml_collections import ConfigDict

from configs import base

SHAPES: dict[str, dict[str, int | float]] = {
    "llama": {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4},
    "gpt_neox": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "rotary_pct": 1.0,  # this and the next as in RedPajama-INCITE
        "use_parallel_residual": False,
    },
}


def get_config(mode: str = "llama") -> ConfigDict:
    base.check_mode(mode, tuple(SHAPES))
    config = base.training(
        base.base_config("pretrain", "mini"),
        learning_rate=1.5e-3 if mode == "llama" else 3e-3,
        warmup_ratio=0.02,
        b2=0.98,
        weight_decay=0.01,
    )
    del config.lora  # there is nothing to adapt
    config.family = mode
    config.output = f"runs/pretrain/{mode}"
    config.shape = {**SHAPES[mode], "tie_word_embeddings": True, "max_position_embeddings": 256}
    config.shape.initializer_range = 0.088  # 1 / sqrt(hidden size)
    config.vocab_size, config.max_length = 2048, 128
    # Shares of paragraphs, surveys and reading exercises. The GPT-NeoX only has to read.
    config.mix = (0.375, 0.325, 0.3) if mode == "llama" else (0.05, 0.05, 0.9)
    config.num_documents = 160_000 if mode == "llama" else 80_000
    config.fit = dict(num_epochs=1, batch_size=32, microbatch_size=32, eval_every=2000, save_every=2000)
    return config
