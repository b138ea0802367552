"""TRL's PPO on the models of a benchmark, where TRL is installed and still has a PPO trainer (trl<1.1)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import models
from lc_jax.models.transformer import Model

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def available() -> bool:
    """Returns whether TRL and its PPO trainer are installed, with a device for them."""
    return bool(models.torch_device()) and models.has("trl") and models.has("trl.experimental.ppo")


def scalar_network(model: Model) -> Any:
    """A transformers sequence classifier of one label with the backbone of `model` (a causal one)."""
    import transformers

    network = models.to_torch(model)
    network.config.num_labels = 1
    scalar = transformers.LlamaForSequenceClassification(network.config).to(network.device, network.dtype)
    scalar.model.load_state_dict(network.model.state_dict())
    return scalar


def seconds_a_step(
    policy: Model, prompts: np.ndarray, response: int, microbatch: int, steps: int, turn: Callable[[], None]
) -> list[float]:
    """Seconds of PPO steps: generate, reference, value and reward model, one epoch, the first step left out.

    Args:
      prompts: [B, P] token ids, all of a length; B is the rollout.
      turn: called after each step, so that what is compared takes its turns with TRL.
    """
    import datasets
    import torch
    import transformers
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    started, seconds = 0.0, []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            nonlocal started
            seconds.append(time.perf_counter() - started)
            turn()
            started = time.perf_counter()

    count = len(prompts)
    rows: Sequence[list[int]] = [row.tolist() for row in np.concatenate([prompts] * 2)]
    with tempfile.TemporaryDirectory() as folder:
        settings = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=microbatch,
            gradient_accumulation_steps=count // microbatch,
            local_rollout_forward_batch_size=count,
            total_episodes=(steps + 1) * count,
            num_ppo_epochs=1,
            num_mini_batches=1,
            response_length=response,
            temperature=1.0,
            learning_rate=1e-5,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            bf16=False,
            gradient_checkpointing=policy.config.remat != "none",
        )
        trainer = PPOTrainer(
            args=settings,
            processing_class=transformers.AutoTokenizer.from_pretrained(models.MINIATURE),
            model=models.to_torch(policy),
            ref_model=models.to_torch(policy),
            reward_model=scalar_network(policy),
            value_model=scalar_network(policy),
            train_dataset=datasets.Dataset.from_dict({"input_ids": rows}),
            eval_dataset=datasets.Dataset.from_dict({"input_ids": rows[:count]}),
            callbacks=[Clock()],
        )
        ids = torch.tensor(prompts).long()
        torch.set_num_threads(models.fastest_threads(lambda: trainer.ref_model(ids.to(trainer.ref_model.device))))
        trainer.train()
    return seconds[1:]
