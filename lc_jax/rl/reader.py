"""The surrogate reader: trained models that read a paragraph and forecast answers, as an API reader would (section 3).

ExtractAnswers lists the answers that a paragraph offers to a question; ForecastProbs gives each, and the true one, a
probability; it reads a paragraph once, and every answer behind it. Text passes between the models, so that each may
have a tokenizer of its own. Here, once, ragged answers become [B, K] with a mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from lc_jax.data import examples
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate, score
from lc_jax.inference.finite import check_finite
from lc_jax.models import hf, released
from lc_jax.models.transformer import Model
from lc_jax.preflight import NATURAL, NON_NEGATIVE, POSITIVE_INT, Range, check_settings
from lc_jax.prompts import Prompt, Templates, postprocess_answers
from lc_jax.types import Question


def check(settings: Any, extractor: str) -> None:
    """Refuses sizes and sampling of `config.reader` that cannot be; those of answers count with an extractor only.

    Raises:
      ValueError: one line for each setting, with its flag.
    """
    allowed = {"max_length": POSITIVE_INT, "batch_size": POSITIVE_INT}
    if extractor:
        allowed |= {"max_new_tokens": POSITIVE_INT, "max_answers": POSITIVE_INT, "top_k": NATURAL}
        allowed |= {"temperature": NON_NEGATIVE, "validation_top_p": Range(above=0, high=1)}
    check_settings("reader", settings, **allowed)


def frozen(precision: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the precision of a model that is not trained: no master copy beyond the compute dtype."""
    return dict(precision, param_dtype=precision["compute_dtype"])


def load(
    settings: Mapping[str, Any], templates: Templates, mesh: jax.sharding.Mesh, precision: Mapping[str, Any]
) -> Reader:
    """The reader of `config.reader`; without an extractor only the true answer is forecast."""

    def part(path: str, kind: str, template: Prompt) -> ReaderModel:
        released.warn_of_wording(path, template)
        model = hf.load(path, mesh, kind=kind, **precision)
        return ReaderModel(model, load_tokenizer(path), template, settings["max_length"], settings["batch_size"])

    extractor = None
    if settings["extractor"]:
        lister = part(settings["extractor"], "causal", templates.extract_answers)
        sampling = generate.Sampling(
            settings["max_new_tokens"], settings["temperature"], top_k=settings["top_k"],
            eos_ids=lister.tokenizer.stop_ids, pad_id=lister.tokenizer.pad_id,
        )  # fmt: skip
        extractor = Extractor(lister, sampling, settings["max_answers"])
    return Reader(extractor, part(settings["forecaster"], "scalar", getattr(templates, settings["template"])))


@dataclasses.dataclass(frozen=True)
class ReaderModel:
    """One model of the reader with what turns text into its tokens."""

    model: Model
    tokenizer: Tokenizer
    template: Prompt
    max_length: int  # tokens of a prompt; a longer one has its paragraph cut, never its question or answer
    batch_size: int  # paragraphs, over all devices

    def encode(self, question: Question, paragraph: str, answer: str = "") -> list[int]:
        """Token ids of the template filled in."""
        fields = {"question": question.question, "generated_paragraph": paragraph}
        if "answer" in self.template.fields:
            fields["answer"] = answer
        tokens = self.tokenizer.encode_prompt(examples.cut_paragraph(self.template, fields))
        if len(tokens) <= self.max_length:
            return tokens
        text = examples.cut_paragraph(self.template, fields, self.tokenizer.fits(self.max_length))
        return self.tokenizer.encode_prompt(text)


@dataclasses.dataclass(frozen=True)
class Extractor:
    """ExtractAnswers: a language model that lists answers."""

    part: ReaderModel
    sampling: generate.Sampling
    max_answers: int  # K; further ones are dropped and counted

    def extract(self, questions: Sequence[Question], paragraphs: Sequence[str], seed: int) -> list[list[str]]:
        """The distinct answers that each paragraph offers to its question, in the order stated."""
        prompts = [self.part.encode(q, z) for q, z in zip(questions, paragraphs, strict=True)]
        completions = generate.generate(
            self.part.model, prompts, self.sampling, seed=seed, batch_size=self.part.batch_size
        )
        for question, completion in zip(questions, completions, strict=True):
            check_finite(completion.logprobs, self.part.tokenizer.name, f"question {question.question_id!r}")
        return [postprocess_answers(self.part.tokenizer.decode(c.tokens)) for c in completions]


@dataclasses.dataclass(frozen=True)
class AnswerForecasts:
    """Forecasts of a reader of B paragraphs; at most K answers each, padded and masked."""

    target_logits: Float[np.ndarray, " B"]  # of the ground truth y; p = sigmoid(logit)
    answer_logits: Float[np.ndarray, "B K"]  # of the distinct extracted answers A
    answer_mask: Bool[np.ndarray, "B K"]  # False where there is no answer; logits there are ignored

    @property
    def top(self) -> Int[np.ndarray, " B"]:
        """Column of the answer with the highest forecast, the first of equals; 0 where there is no answer."""
        return np.where(self.answer_mask, self.answer_logits, -np.inf).argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Reading:
    """Answers and forecasts of the reader for B paragraphs."""

    answers: list[list[str]]  # at most K each; empty lists without an extractor
    forecasts: AnswerForecasts  # arrays [B] and [B, K]
    num_dropped: int  # answers beyond K

    def top_answers(self) -> list[str]:
        """Returns the answer with the highest forecast in each paragraph, "" where there is none."""
        return [answers[k] if answers else "" for answers, k in zip(self.answers, self.forecasts.top, strict=True)]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Extractor (None: only the true answer is judged, as the factuality reward does) and forecaster."""

    extractor: Extractor | None
    forecaster: ReaderModel

    def with_sampling(self, top_k: int, top_p: float) -> Reader:
        """Returns the reader with an extractor that samples in another way."""
        if self.extractor is None:
            return self
        sampling = dataclasses.replace(self.extractor.sampling, top_k=top_k, top_p=top_p)
        return dataclasses.replace(self, extractor=dataclasses.replace(self.extractor, sampling=sampling))

    def with_models(self, change: Callable[[Model], Model]) -> Reader:
        """Returns the reader with changed models."""

        def changed(part: ReaderModel) -> ReaderModel:
            return dataclasses.replace(part, model=change(part.model))

        extractor = self.extractor and dataclasses.replace(self.extractor, part=changed(self.extractor.part))
        return Reader(extractor, changed(self.forecaster))

    def read(self, questions: Sequence[Question], paragraphs: Sequence[str], seed: int) -> Reading:
        """Returns the answers and their probability logits for every (question, paragraph)."""
        answers: list[list[str]] = [[] for _ in questions]
        num_answers, dropped = 1, 0
        if self.extractor is not None:
            num_answers = self.extractor.max_answers
            extracted = self.extractor.extract(questions, paragraphs, seed)
            answers = [a[:num_answers] for a in extracted]
            dropped = sum(map(len, extracted)) - sum(map(len, answers))
        pairs = [(b, k) for b, listed in enumerate(answers) for k in range(len(listed))]
        logits = self._forecast(
            [(q, z, q.answer) for q, z in zip(questions, paragraphs, strict=True)]
            + [(questions[b], paragraphs[b], answers[b][k]) for b, k in pairs]
        )
        answer_logits = np.zeros((len(questions), num_answers), np.float32)
        mask = np.zeros((len(questions), num_answers), bool)
        for (b, k), logit in zip(pairs, logits[len(questions) :], strict=True):
            answer_logits[b, k], mask[b, k] = logit, True
        return Reading(answers, AnswerForecasts(logits[: len(questions)], answer_logits, mask), dropped)

    def _forecast(self, triples: Sequence[tuple[Question, str, str]]) -> np.ndarray:
        """Returns logits of P(answer | question, paragraph), [N] float32; equal triples are read once."""
        groups: dict[tuple[str, str], dict[tuple[int, ...], int]] = {}
        places = []
        for question, paragraph, answer in triples:
            group = groups.setdefault((question.question, paragraph), {})
            tokens = tuple(self.forecaster.encode(question, paragraph, answer))
            places.append(((question.question, paragraph), group.setdefault(tokens, len(group))))
        group_logits = score.group_rewards(
            self.forecaster.model, [list(group) for group in groups.values()], batch_size=self.forecaster.batch_size
        )
        logits = dict(zip(groups, group_logits, strict=True))
        values = [float(logits[key][place]) for key, place in places]
        for (question, _, _), value in zip(triples, values, strict=True):
            check_finite([value], self.forecaster.tokenizer.name, f"question {question.question_id!r}")
        return np.asarray(values, np.float32)
