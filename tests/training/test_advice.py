"""The next command that a training prints works on the model that it made."""

import pytest

from lc_jax.training import advice

OWN = {"output": "runs/own", "templates": "short", "prompt_dir": ""}
USUAL = {"param_dtype": "float32", "compute_dtype": "bfloat16", "remat": "full"}


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        (USUAL, ""),
        (USUAL | {"compute_dtype": "float32"}, " --config.precision.compute_dtype=float32"),
        (USUAL | {"param_dtype": "bfloat16"}, " --config.precision.param_dtype=bfloat16"),
    ],
)
def test_the_next_command_computes_as_the_training_did(precision, flags):
    settings = OWN | {"precision": precision}
    command = advice.to_write(settings, uses_template=False).command
    assert command.endswith("--config.output=runs/own/completions.jsonl" + flags)
    assert advice.to_score(settings).command.endswith("--config.kind=reward" + flags)
    templates = " --config.templates=short"
    assert advice.to_write(settings, uses_template=True).command.endswith(flags + templates)


@pytest.mark.parametrize("has_template", [False, True])
def test_messages_are_named_only_where_the_saved_tokenizer_takes_them(has_template):
    settings = OWN | {"precision": USUAL}
    note = advice.to_write(settings, uses_template=False, has_chat_template=has_template).note
    assert ("messages" in note) == has_template
