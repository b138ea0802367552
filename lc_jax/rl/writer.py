"""The policy's text side: from questions to prompts, from completions to paragraphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import logging

from lc_jax.data.tokenizer import Tokenizer
from lc_jax.inference import generate
from lc_jax.inference.finite import check_finite
from lc_jax.models import released
from lc_jax.models.transformer import Model
from lc_jax.prompts import Prompt, Templates
from lc_jax.rl.settings import PPOSettings
from lc_jax.training import run_steps
from lc_jax.types import Question


def load(policy: str, templates: Templates, ppo: PPOSettings) -> PolicyWriter:
    """Returns the writer for the checkpoint `policy`."""
    tokenizer = run_steps.export_tokenizer("ppo", policy, "", templates)
    released.warn_of_wording(policy, templates.paragraph)
    sampling = generate.Sampling(
        ppo.response_length, ppo.temperature, eos_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id
    )
    critic_template = templates.critic if ppo.baseline == "critic_with_answer" else None
    return PolicyWriter(tokenizer, templates.paragraph, critic_template, sampling, ppo.decode_batch_size)


@dataclasses.dataclass(frozen=True)
class PolicyWriter:
    """The policy's text side: how a question becomes its prompt, and its tokens a paragraph."""

    tokenizer: Tokenizer
    template: Prompt
    critic_template: Prompt | None  # shows the critic the true answer; None: the critic reads the same prompt
    sampling: generate.Sampling
    batch_size: int

    def encode(self, question: Question) -> list[int]:
        """Returns the prompt's token ids."""
        prompt = self.template.prompt_text(paragraph_generation_prompt=question.prompt)
        return self.tokenizer.encode_prompt(prompt, f"question {question.question_id!r}")

    def encode_for_critic(self, questions: Sequence[Question]) -> list[list[int]] | None:
        """Returns the critic's prompts, None where it reads the policy's.

        They may show the true answer: only the baseline depends on them, never what the policy reads.
        """
        if self.critic_template is None:
            return None
        texts = [
            self.critic_template.render(paragraph_generation_prompt=q.prompt, question=q.question, answer=q.answer)
            for q in questions
        ]
        return [self.tokenizer.encode_prompt(text) for text in texts]

    def fitting(self, questions: Sequence[Question], query_length: int) -> list[Question]:
        """Returns the questions whose prompts have at most `query_length` tokens, and logs how many have more.

        Reference: data_preprocessor.py:QueryDataset.

        Raises:
          ValueError: all prompts are longer.
        """
        lengths = [len(self.encode(q)) for q in questions]
        fitting = [q for q, length in zip(questions, lengths, strict=True) if length <= query_length]
        if not fitting:
            raise ValueError(
                f"Every training prompt is longer than --config.ppo.query_length={query_length} tokens: give "
                f"{max(lengths)}, the length of the longest, or at least {min(lengths)}, that of the shortest."
            )
        num_longer = len(questions) - len(fitting)
        logging.info("%d training questions; %d prompts are over %d tokens", len(fitting), num_longer, query_length)
        return fitting

    def write(
        self, policy: Model, questions: Sequence[Question], prompts: Sequence[list[int]], seed: int
    ) -> list[generate.Completion]:
        """Samples one completion for each of `questions`, whose token ids are `prompts`.

        A question that comes several times gets different samples.

        Raises:
          FloatingPointError: a log-probability is not finite; names the question.
        """
        completions = generate.generate(policy, prompts, self.sampling, seed=seed, batch_size=self.batch_size)
        for question, completion in zip(questions, completions, strict=True):
            check_finite(completion.logprobs, "the policy", f"question {question.question_id!r}")
        return completions

    def decode(self, completions: Sequence[generate.Completion], clean_up: bool = False) -> list[str]:
        """Paragraphs as text; `clean_up` as in `Tokenizer.decode`."""
        return [self.tokenizer.decode(c.tokens, clean_up) for c in completions]
