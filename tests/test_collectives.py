"""Counts the collectives of a step's compiled programs on eight devices."""

import re
from collections import Counter

import jax
import numpy as np
import pytest

from lc_jax import memory, parallel
from tests import programs

PRECISION = {"param_dtype": "float32", "compute_dtype": "float32", "remat": "none"}


def models(mesh):
    return [memory.abstract_model("tiny-llama", mesh, kind, **PRECISION) for kind in ("causal", "scalar")]


# The partitioner of another JAX may choose others: count again, and say why there are more or fewer.
counted = pytest.mark.skipif(not jax.__version__.startswith("0.10."), reason="counted with JAX 0.10")
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def collectives(traced):
    """Returns the number of each kind in the compiled program; the body of a loop counts once."""
    text = traced.lower().compile().as_text()
    return dict(Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text)))


@pytest.mark.slow
@counted
def test_collectives_of_a_supervised_step():
    mesh = parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        traced = programs.train_step(models(mesh)[0], "causal", 16, 16, 32)
        # Two layers of seven matrices, each gathered for the forward and again for the backward pass, four reads of
        # embedding and head, and the mask of the tokens that lie in a device's part of the vocabulary.
        expected = {"all-gather": 33, "all-reduce": 21, "all-to-all": 2, "collective-permute": 1}
        assert collectives(traced) == expected


@pytest.mark.slow
@counted
def test_collectives_of_a_ppo_update():
    mesh = parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        traced = programs.ppo_updates(*models(mesh), 16, 32, 16)
        # The critic reads no head; the optimiser sums the gradient's norm.
        assert {name: collectives(program) for name, program in traced.items()} == {
            "policy gradients": {"all-gather": 30, "all-reduce": 13, "all-to-all": 2},
            "critic gradients": {"all-gather": 29, "all-reduce": 10, "all-to-all": 2},
            "optimizer step": {"all-reduce": 3},
        }


@pytest.mark.slow
@counted
def test_collectives_of_a_rollout():
    mesh = parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        causal, scalar = models(mesh)
        traced = {
            "generate": programs.generation(causal, 16, 16, 16),
            "forecast": programs.forecast(scalar, 16, 32, 8),
            "logprobs": programs.logprobs(causal, causal, scalar, 16, 32, 16),
        }
        # One model in "forecast", three in "logprobs", their matrices gathered once. Generation gathers pairs alone,
        # the largest logit and its place: no matrix, which would be gathered for every token.
        assert {name: collectives(program) for name, program in traced.items()} == {
            "generate": {"all-gather": 4, "all-reduce": 13, "collective-permute": 2},
            "forecast": {"all-gather": 15, "all-reduce": 5, "all-to-all": 1},
            "logprobs": {"all-gather": 45, "all-reduce": 17, "all-to-all": 3},
        }


@pytest.mark.slow
def test_no_device_gathers_what_other_replicas_look_up():
    """Rows of the embedding are exchanged among the devices of one replica only."""
    mesh, rows, length, width = parallel.make_mesh(2, 4, 1), 16, 32, 32
    with jax.set_mesh(mesh):
        traced = programs.train_step(models(mesh)[0], "causal", rows, rows, length)
        lines = traced.lower().compile().as_text().splitlines()
    moves = [line for line in lines if re.search(r" all-(gather|to-all)(-start)?\(", line)]
    shapes = [[int(n) for n in shape.split(",")] for line in moves for shape in re.findall(r"f32\[([\d,]+)\]", line)]
    looked_up = [shape for shape in shapes if len(shape) > 2]
    assert looked_up
    assert max(map(np.prod, looked_up)) <= rows // mesh.size * length * width


def test_no_matrix_is_gathered_in_the_decode_loop():
    mesh = parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        model = models(mesh)[0]
        text = programs.generation(model, 16, 16, 16).lower().compile().as_text()
    lines = [line for line in text.splitlines() if re.search(r" all-gather(-start)?\(", line)]
    sizes = [np.prod([int(n) for n in re.search(r"\[([\d,]*)\]", line)[1].split(",")]) for line in lines]
    smallest = min(leaf.size for leaf in jax.tree.leaves(model.params) if leaf.ndim == 3) // model.config.num_layers
    assert lines
    assert max(sizes) < smallest / 8  # not even one device's share of a matrix
