"""GGUF files that tests write: a byte-level tokenizer, the writer, and the task that converts them."""

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from lc_jax import main

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fact>"]
MERGED = {"He": "H e", "ll": "l l", "Hell": "He ll", "Hello": "Hell o", "\u0120w": "\u0120 w"}
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), *MERGED]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3, 4, *[1] * (len(TOKENS) - 4)],
    "tokenizer.ggml.merges": list(MERGED.values()),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.chat_template": TEMPLATE,
}


def write(path, tensors, metadata, architecture="llama", quantisation=None):
    """Writes a GGUF file; matrices are stored in `quantisation`, default float32."""
    writer = gguf.GGUFWriter(path, architecture)
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in metadata.items():
        adders.get(type(value), writer.add_array)(key, value)
    for name, value in tensors.items():
        if quantisation is None or value.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(value))
        else:
            writer.add_tensor(name, gguf.quants.quantize(value, quantisation), raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert(source, destination, *flags):
    """Runs the task `convert`."""
    flags = [f"--config.source={source}", f"--config.destination={destination}", *flags]
    main.run_task(["main", "--config=configs/convert.py", "--config.compilation_cache=", *flags])
