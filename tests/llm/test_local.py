from __future__ import annotations

import pytest

from configs.base import LLAMA
from lc_jax import llm
from lc_jax.llm.session import open_annotator
from lc_jax.types import Request
from tests.llm.asking import ask

FLOAT32 = {"param_dtype": "float32", "compute_dtype": "float32"}


@pytest.mark.slow
def test_what_a_checkpoint_draws_depends_on_the_request_alone(tmp_path):
    requests = [Request(f"Paris is {i}", 1.0, 12, sample) for i in range(3) for sample in range(2)]
    requests += [Request("Paris is", 0.0, 5), Request("Paris is 0", 1.0, 12)]
    replies = ask(llm.load(f"local/{LLAMA}", batch_size=8, **FLOAT32), requests)
    assert replies[0] == replies[7]
    assert len({replies[i].text for i in range(6)}) > 3
    assert all(1 <= reply.usage.output_tokens <= 12 for reply in replies)
    assert {reply.status for reply in replies} <= {"ok", "truncated", "invalid"}  # some are empty
    assert replies[6].usage.output_tokens <= 5

    name = f"local/{LLAMA}"
    with open_annotator(name, store=tmp_path / "s", budget=0.0, batch_size=8, **FLOAT32) as annotator:
        backwards = ask(annotator, requests[::-1])
    assert [reply.text for reply in reversed(backwards)] == [reply.text for reply in replies]


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=tmp_path.name):
        llm.load(f"local/{tmp_path}")
