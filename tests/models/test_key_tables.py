"""The published models at full shape, without weights: their keys and shapes are those that transformers gives."""

import jax
import pytest
import torch
import transformers

from lc_jax.models import params, registry

# The settings of the published config.json files, written down apart from ours.
LLAMA_2 = dict(vocab_size=32000, max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False)
PUBLISHED = {
    "llama-2-7b": transformers.LlamaConfig(
        **LLAMA_2, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    ),
    "llama-2-13b": transformers.LlamaConfig(
        **LLAMA_2, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
    "redpajama-incite-3b": transformers.GPTNeoXConfig(
        vocab_size=50432,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        rotary_pct=1.0,
        use_parallel_residual=False,
        tie_word_embeddings=False,
    ),
}
COUNTS = {"llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320, "redpajama-incite-3b": 2_775_864_320}


@pytest.fixture(scope="module", params=PUBLISHED)
def pair(request):
    """Our config, and the shapes of transformers' model by key."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(PUBLISHED[request.param])
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if "gpt_neox.embed_in.weight" in shapes:  # files have it by this name, and transformers 5 renames it on the way
        shapes["embed_out.weight"] = shapes.pop("lm_head.weight")
    assert sum(p.numel() for p in model.parameters()) == COUNTS[request.param]
    return registry.from_preset(request.param), shapes


def test_every_key_and_shape_is_transformers_own(pair):
    config, shapes = pair
    ours = params.tensor_specs(registry.abstract_model(config), "float32")
    assert len(ours) == len({spec.key for spec in ours})
    assert {spec.key: spec.shape for spec in ours} == shapes


def test_every_parameter_is_mapped_once_in_both_directions(pair):
    config, shapes = pair
    for kind, prefix in (("causal", ""), ("scalar", "backbone_model.")):
        model = registry.abstract_model(config, kind)
        specs = params.param_specs(model)
        paths = [path for path, _ in registry.named_leaves(model.params)]
        assert [spec.path for spec in specs] == paths
        assert len(set(paths)) == len(paths)
        keys = [key for spec in specs for key in spec.hf_keys]
        assert len(set(keys)) == len(keys)
        heads = {"reward_head.weight", "reward_head.bias"} if kind == "scalar" else set()
        assert set(keys) == {prefix + key for key in shapes} | heads
        sizes = {spec.path: len(spec.hf_keys) if spec.stacked else 1 for spec in specs}
        assert all(
            leaf.shape[0] == sizes[path] for path, leaf in registry.named_leaves(model.params) if sizes[path] > 1
        )


def test_a_model_of_full_shape_takes_no_memory(pair):
    config, _ = pair
    assert all(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(registry.abstract_model(config).params)
    )


def test_our_config_is_the_published_one(pair):
    """Both our config.json and the published one reach the model in full."""
    config, _ = pair
    theirs = PUBLISHED[next(n for n, c in PUBLISHED.items() if c.hidden_size == config.hidden_size)].to_dict()
    again = registry.config_from_hf(theirs)
    for field in ("hidden_size", "num_layers", "num_heads", "head_dim", "rotary_dim", "kinds", "norm_eps"):
        assert getattr(again, field) == getattr(config, field), field
    assert (again.vocab_size, again.max_length) == (config.vocab_size, config.max_length)
