"""GGUF files of language models: config, weights in the layout of Hugging Face folders, metadata of the tokenizer.

Reference: llama.cpp, which defines the keys, the names of tensors and what its converter changes in them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lc_jax.models import gemma3, llama, qwen2, qwen3
from lc_jax.models.config import Config
from lc_jax.models.layout import check_file
from lc_jax.models.params import NamedArrays, ParamSpec, param_specs
from lc_jax.models.registry import FAMILIES, abstract_model, config_from_hf
from lc_jax.models.rope import Llama3
from lc_jax.models.tensors import check_values
from lc_jax.models.transformer import Model


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Differences of one architecture of GGUF files; everything else is in the files, or the same in all."""

    model_type: str  # in config.json
    interleaved: bool = False  # the rows of queries and keys are in llama.cpp's order, see `GGUF._tensor`
    # Key of config.json -> key of the metadata without the architecture, and what a missing one means; None: rejected.
    keys: Mapping[str, tuple[str, Any]] = dataclasses.field(default_factory=dict)
    wide_queries: int | None = None  # layers of the size whose query scale is (hidden_size / heads)^-0.5


# general.architecture -> what it has of its own.
ARCHITECTURES = {
    "llama": Architecture(llama.MODEL_TYPE, interleaved=True),
    "qwen2": Architecture(qwen2.MODEL_TYPE),
    "qwen3": Architecture(qwen3.MODEL_TYPE),
    "gemma3": Architecture(
        gemma3.MODEL_TYPE,
        keys={
            "sliding_window": ("attention.sliding_window", None),
            "sliding_window_pattern": ("attention.sliding_window_pattern", 6),
            "rope_local_base_freq": ("rope.freq_base_swa", 10000.0),
            "attn_logit_softcapping": ("attn_logit_softcapping", 0),
            "final_logit_softcapping": ("final_logit_softcapping", 0),
        },
        wide_queries=62,  # Gemma 3 27B
    ),
}
# Parameter path of models/transformer.py without its last part -> name of the tensor; "{}" is the layer.
_NAMES = {
    "embedding": "token_embd",
    "layers.attention_norm": "blk.{}.attn_norm",
    "layers.q": "blk.{}.attn_q",
    "layers.k": "blk.{}.attn_k",
    "layers.v": "blk.{}.attn_v",
    "layers.o": "blk.{}.attn_output",
    "layers.q_norm": "blk.{}.attn_q_norm",
    "layers.k_norm": "blk.{}.attn_k_norm",
    "layers.attention_out_norm": "blk.{}.post_attention_norm",
    "layers.mlp_norm": "blk.{}.ffn_norm",
    "layers.gate": "blk.{}.ffn_gate",
    "layers.up": "blk.{}.ffn_up",
    "layers.down": "blk.{}.ffn_down",
    "layers.mlp_out_norm": "blk.{}.post_ffw_norm",
    "norm": "output_norm",
    "head": "output",
}
_ROPE = "rope_freqs.weight"  # divisors of the rotary frequencies, which Llama 3.1's scaling gives
_LLAMA_3: dict[str, Any] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_UNUSED = ("rope_freqs.weight", "attn_rot_embd.weight")  # endings of tensors that are no parameters


class GGUF:
    """One GGUF file of a language model: its metadata and tensors.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, one of several parts, of another architecture, lacks a key or a tensor, or asks for
        something that is not implemented; or the library gguf is missing. The message names file and remedy.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {self.path}; correct the path.")
        if importlib.util.find_spec("gguf") is None:
            raise ValueError(f"{self.path}: GGUF files are read by the library gguf: pip install 'lc_jax[gguf]'.")
        check_file(self.path)
        import gguf

        try:
            reader = gguf.GGUFReader(self.path)
            self.metadata = {key: field.contents() for key, field in reader.fields.items() if field.types}
        except Exception as error:  # the library has no exceptions of its own: ValueError, IndexError, UnicodeError ...
            raise ValueError(f"{self.path} is no complete GGUF file ({error}); download it again.") from error
        if self.metadata.get("split.count", 0) > 1:
            raise ValueError(
                f"{self.path} is one part of {self.metadata['split.count']}: merge them with llama.cpp's tool "
                "(llama-gguf-split --merge) and give the result."
            )
        self.architecture = self.value("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"{self.path}: general.architecture={self.architecture!r} is not read, only {sorted(ARCHITECTURES)}; "
                "give the model's Hugging Face folder."
            )
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.config = self._config()
        self._check_tensors()

    def value(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key of the metadata.

        Raises:
          ValueError: it is missing, and there is no default.
        """
        value = self.metadata.get(key, default)
        if value is None:
            raise ValueError(f"{self.path} lacks the key {key}; convert the original model to GGUF again.")
        return value

    def dtype(self) -> str:
        """Returns the dtype in which most matrices are stored; "float32" where they are quantised."""
        names = [tensor.tensor_type.name for tensor in self._tensors.values() if len(tensor.shape) > 1]
        return _FLOATS.get(max(sorted(set(names)), key=names.count), "float32")

    def read(self, mesh: jax.sharding.Mesh, dtype: str) -> tuple[Model, NamedArrays]:
        """Returns the abstract model and its parameters, each of which is dequantised when it is drawn.

        Raises:
          ValueError: a tensor is not finite, or quantised in a way that the library does not know; when it is drawn.
        """
        model = abstract_model(self._with_precision(dtype), "causal", mesh)

        def arrays() -> Iterator[tuple[ParamSpec, jax.Array]]:
            for spec in param_specs(model):
                layers = [self._tensor(spec, name).astype(spec.dtype) for name in self._names(spec)]
                value = np.stack(layers) if spec.stacked else layers[0]
                yield spec, jax.device_put(value.swapaxes(-1, -2) if spec.transposed else value, spec.sharding)

        return model, arrays()

    def _with_precision(self, dtype: str) -> Config:
        return config_from_hf(self.config, param_dtype=dtype, compute_dtype=dtype)

    def _number(self, key: str, default: Any = None) -> Any:
        """Returns a number of the model; a float32 as the shortest decimal that means it, as config.json has it."""
        name = f"{self.architecture}.{key}"
        value = self.value(name, default)
        if isinstance(value, list):
            raise ValueError(f"{self.path}: {name} differs between layers, which is not implemented.")
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def _config(self) -> dict[str, Any]:
        """Returns the contents of config.json."""
        architecture = ARCHITECTURES[self.architecture]
        own = {key: self._number(name, default) or None for key, (name, default) in architecture.keys.items()}
        names = [name for name, _ in architecture.keys.values()]
        for key, what in (("expert_count", "mixtures of experts"), ("attention.sliding_window", "windows")):
            if self._number(key, 0) and key not in names:
                raise ValueError(f"{self.path}: {self.architecture}.{key}: {what} are not implemented.")
        heads, hidden = self._number("attention.head_count"), self._number("embedding_length")
        head_dim = self._number("attention.key_length", hidden // heads)
        for key in ("rope.dimension_count", "attention.value_length"):
            if self._number(key, head_dim) != head_dim:
                raise ValueError(
                    f"{self.path}: {self.architecture}.{key}={self._number(key)} is not implemented, only the size of "
                    f"a head, {head_dim}."
                )
        layers = self._number("block_count")
        config = own | {
            "model_type": architecture.model_type,
            "vocab_size": int(self._tensors["token_embd.weight"].shape[1])  # the innermost dimension comes first
            if "token_embd.weight" in self._tensors
            else len(self.value("tokenizer.ggml.tokens")),
            "hidden_size": hidden,
            "intermediate_size": self._number("feed_forward_length"),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "query_pre_attn_scalar": hidden // heads if layers == architecture.wide_queries else head_dim,
            "max_position_embeddings": self._number("context_length"),
            "rms_norm_eps": self._number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._number("rope.freq_base", 10000.0),
            "rope_scaling": self._rope_scaling(head_dim),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "attention_bias": "blk.0.attn_q.bias" in self._tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in self._tensors,
            "bos_token_id": self.metadata.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.metadata.get("tokenizer.ggml.eos_token_id"),
        }
        try:
            config_from_hf(config)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        return config

    def _rope_scaling(self, head_dim: int) -> dict[str, Any] | None:
        """Returns `rope_scaling` of config.json.

        GGUF stores what Llama 3.1's scaling divides each frequency by, not its four numbers. The greatest divisor is
        `factor`; the other three are the same in all Llama 3 models, which is checked.
        """
        kind = self.metadata.get(f"{self.architecture}.rope.scaling.type", "linear")  # as llama.cpp has it
        factor = self._number("rope.scaling.factor", 1.0) if kind == "linear" else 1.0
        if kind not in ("none", "linear") or (factor != 1 and _ROPE in self._tensors):
            raise ValueError(f"{self.path}: rope scaling of type {kind!r} is not implemented for this file.")
        if _ROPE not in self._tensors:
            return {"rope_type": "linear", "factor": factor} if factor != 1 else None
        divisors = self._dequantised(_ROPE)
        settings: dict[str, Any] = {"factor": float(str(divisors.max())), **_LLAMA_3}
        theta = self._number("rope.freq_base", 10000.0)
        inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
        expected = inverse / np.asarray(Llama3(**settings).apply(inverse, theta))
        if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
            raise ValueError(
                f"{self.path}: {_ROPE} holds another scaling of rotary frequencies than Llama 3's, which is not "
                "implemented; give the model's Hugging Face folder."
            )
        return {"rope_type": "llama3", **settings}

    def _names(self, spec: ParamSpec) -> list[str]:
        """Returns the names of the tensors of a parameter, one for each layer if it is stacked."""
        module, _, last = ".".join(spec.path).rpartition(".")
        name = _NAMES[module or last] + (".bias" if last == "bias" else ".weight")
        return [name.format(layer) for layer in range(len(spec.hf_keys))]

    def _check_tensors(self) -> None:
        """Checks that the tensors are those of the config, with its shapes.

        Raises:
          ValueError: names the first 20 that are missing, unknown, or of another shape.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for spec in param_specs(abstract_model(self._with_precision("float32"))):
            shapes |= dict.fromkeys(self._names(spec), spec.hf_shape)
        problems = [f"missing: {name}" for name in shapes if name not in self._tensors]
        for name, tensor in self._tensors.items():
            shape = tuple(int(n) for n in reversed(tensor.shape))
            if name not in shapes:
                problems += [f"unknown: {name}"] if not name.endswith(_UNUSED) else []
            elif shape != shapes[name]:
                problems.append(f"{name} has shape {list(shape)}, the metadata ask for {list(shapes[name])}")
        if problems:
            more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise ValueError(
                f"{self.path} does not fit its metadata; convert the original model to GGUF again:\n  "
                + "\n  ".join(problems[:20])
                + more
            )

    def _dequantised(self, name: str) -> np.ndarray:
        """Returns a tensor in float32.

        Raises:
          ValueError: as in `read`.
        """
        import gguf

        tensor = self._tensors[name]
        try:
            value = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            raise ValueError(
                f"{self.path}: {name} is quantised as {tensor.tensor_type.name}, which the library gguf cannot undo; "
                "give a file of another quantisation."
            ) from error
        check_values(self.path, name, value)
        return value

    def _tensor(self, spec: ParamSpec, name: str) -> np.ndarray:
        """Returns a tensor as a Hugging Face folder has it, in float32.

        Where norms scale by 1 + w, GGUF stores that sum. Of Llama, GGUF interleaves the two halves of each head in
        queries and keys, since its rotary positions turn neighbouring numbers; here, as in transformers, they turn
        number i with number i + head_dim / 2.
        """
        value = self._dequantised(name)
        if spec.path[-1] == "scale":
            offset = getattr(FAMILIES[self.config["model_type"]], "NORM_OFFSET", 0.0)
            return value - np.float32(offset)
        if spec.path[1:2] not in (("q",), ("k",)) or not ARCHITECTURES[self.architecture].interleaved:
            return value
        heads = self.config["num_attention_heads" if spec.path[1] == "q" else "num_key_value_heads"]
        pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:])
        return pairs.swapaxes(1, 2).reshape(value.shape)
