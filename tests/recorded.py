"""Numbers recorded from the published code: the committed files of tests/golden, and the models that they are of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

GOLDEN = Path(__file__).resolve().parent / "golden"


def decode(value: Any) -> Any:
    """JSON as recorded -> Python and numpy."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("__array__"):
        dtype = object if value["dtype"] == "object" else value["dtype"]
        return np.array(value["data"], dtype=dtype).reshape(value["shape"])
    if value.get("__scalar__"):
        return np.dtype(value["dtype"]).type(value["value"])
    for mark, kind in (("__tuple__", tuple), ("__set__", set)):
        if mark in value:
            return kind(decode(v) for v in value[mark])
    return ... if value.get("__ellipsis__") else {k: decode(v) for k, v in value.items()}


def load(path: Path) -> Any:
    """One recorded file."""
    return decode(json.loads(path.read_text()))


def tensors(name: str) -> dict[str, np.ndarray]:
    """The arrays of one recording of PPO steps; of parameters and gradients only a sample, see `sample`."""
    with np.load(GOLDEN / "ppo_step.npz") as arrays:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def sample(values: np.ndarray) -> np.ndarray:
    """48 numbers of a tensor, evenly spread; all of a small one."""
    flat = values.ravel()
    return flat[np.unique(np.linspace(0, flat.size - 1, 48).astype(int))]


def llama_config(vocab_size: int, hidden_size: int, intermediate_size: int) -> dict[str, Any]:
    """config.json of the recorded tiny Llamas."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": vocab_size,
        "hidden_size": hidden_size, "intermediate_size": intermediate_size, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip


def llama_weights(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """The weights of a recorded model, drawn as they were: normal numbers, in the order of the names."""
    vocab, width, inner = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    layer = {f"self_attn.{x}_proj": (width, width) for x in "qkvo"} | {"mlp.down_proj": (width, inner)}
    layer |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width)}
    layer |= {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
    shapes = {"lm_head": (vocab, width), "model.embed_tokens": (vocab, width), "model.norm": (width,)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in (0, 1) for name, shape in layer.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {f"{name}.weight": _draw(name, shapes[name]) for name in sorted(shapes)}


def normal(seed: int, *shape: int) -> np.ndarray:
    """The first normal numbers of a seed, float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.randn(shape).numpy()


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "norm" in name:
        return (1 + 0.1 * torch.randn(shape)).numpy()
    return (torch.randn(shape) * (0.5 if "embed" in name else 0.12)).numpy()


def value_head_and_reference(policy: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The critic's head in the recorded step, and the reference policy: `policy` with noise."""
    with torch.random.fork_rng():
        torch.manual_seed(79)
        head = {"weight": (0.2 * torch.randn(1, 64)).numpy(), "bias": (0.1 * torch.randn(1)).numpy()}
        return head, {k: v + 0.02 * torch.randn(v.shape).numpy() for k, v in sorted(policy.items())}


def save_model(folder: Path, config: dict[str, Any], weights: dict, head: dict | None = None) -> Path:
    """Writes a checkpoint folder: a language model, or with `head` a reward model. Returns the folder."""
    folder.mkdir()
    if head is not None:
        weights = {f"backbone_model.{k}": v for k, v in weights.items()}
        weights |= {f"reward_head.{k}": v for k, v in head.items()}
        config = {"model_type": "reward_model", "backbone_config": config}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
