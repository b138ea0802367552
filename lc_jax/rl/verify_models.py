"""Checks of a model in the precision that it is trained in: sampling, scoring, padding, an update, files, devices."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lc_jax import parallel
from lc_jax.data.examples import Encoded
from lc_jax.data.tokenizer import Tokenizer
from lc_jax.inference import generate, score
from lc_jax.models import hf
from lc_jax.models.transformer import Model, trainable
from lc_jax.rl import batch, consistency, rollout, update
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.verify import Measured, Result, Skipped, largest
from lc_jax.training import language_model
from lc_jax.training import state as states
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.logging import RunDirectory
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from lc_jax.types import Example

RATE = 2e-3  # learning rate of the updates, so large that stale weights are far beyond rounding
MAX_UPDATES = 10  # of a policy that is so sure of its samples that one update hardly changes it
LARGEST_FOR_TORCH = 2_000_000_000  # parameters, above which a second copy in transformers takes too long
MARGIN = 1e-3  # nats or logits, added to the rounding noise
MAX_TOKENS = 2048  # of a training example


@dataclasses.dataclass(frozen=True)
class Subject:
    """A causal model with the settings that it is sampled and trained with."""

    path: str
    precision: dict[str, Any]
    tokenizer: Tokenizer
    prompts: Sequence[Sequence[int]]  # of unequal length, 2 or more
    sampling: generate.Sampling
    mesh: jax.sharding.Mesh
    optimizer: str = "adamw"
    num_rows: int | None = None  # of the embedding, where the tokenizer has grown
    loss: LossSettings = dataclasses.field(default_factory=LossSettings)


@dataclasses.dataclass
class Trial:
    """One rollout of a subject and the updates on it, which several checks share."""

    subject: Subject
    policy: Model
    completions: list[generate.Completion]
    episodes: batch.Episodes  # scored by the policy before any update
    noise: float
    state: states.TrainState | None = None
    stats: dict[str, float] = dataclasses.field(default_factory=dict)  # of the first update

    @classmethod
    def of(cls, subject: Subject) -> Trial:
        """Samples and scores with the production functions."""
        policy = hf.load(subject.path, subject.mesh, vocab_size=subject.num_rows, **subject.precision)
        completions = write(policy, subject)
        episodes = score_rollout(policy, subject, completions)
        noise = consistency.rounding_noise(policy, episodes, len(subject.prompts), subject.sampling.temperature)
        return cls(subject, policy, completions, episodes, noise)

    @property
    def limits(self) -> consistency.Limits:
        """Returns PPO's limits at this rounding noise."""
        return consistency.Limits.of(self.noise)

    def settings(self) -> update.UpdateSettings:
        """Returns one epoch of one update in micro-batches of half the rollout."""
        count, temperature = len(self.subject.prompts), self.subject.sampling.temperature
        return update.UpdateSettings(1, count, max(count // 2, 1), temperature, self.subject.loss)

    def structure(self) -> ActorCritic:
        """Returns what is trained, the policy alone, without its parameters."""
        return ActorCritic(self.policy, None).with_params(None)

    def optimizer(self) -> Any:
        """Returns the optimiser of the updates."""
        kind = self.subject.optimizer
        settings = OptimizerSettings(RATE, 100, 0, "constant", 0.9, 0.999, 1e-8, 0.0, 1.0, kind)
        return make_optimizer(settings, trainable({"policy": self.policy.params}))

    def advantages(self) -> np.ndarray:
        """Returns advantages of both signs: -1 and 2 in turn, 0 in padding."""
        mask = self.episodes.mask
        return np.where(np.arange(len(mask))[:, None] % 2, 2.0, -1.0).astype(np.float32) * mask

    def step(self, state: states.TrainState) -> tuple[states.TrainState, dict[str, float]]:
        """Makes one update."""
        episodes = dataclasses.replace(self.episodes, advantages=self.advantages())
        state, (stats,) = update.update(
            state, self.structure(), episodes, tx=self.optimizer(), settings=self.settings(), seed=0
        )
        return state, stats

    def copy(self) -> states.TrainState:
        """Returns a fresh state around a copy of the parameters: an update overwrites its own."""
        params = jax.tree.map(jnp.copy, self.policy.params)
        return states.create({"policy": params}, self.optimizer())

    def updated(self) -> Model:
        """Returns the policy after as many updates as stale weights need to show, which the first call makes."""
        if self.state is None:
            self.state, self.stats = self.step(self.copy())
            for _ in range(MAX_UPDATES - 1):
                if self.change() > 2 * self.limits.sampling_gap:
                    break
                self.state, _ = self.step(self.state)
        return self.policy.with_params(self.state.params["policy"])

    def change(self) -> float:
        """Returns by how much the updates changed scored log-probabilities of the rollout: the mean, in nats."""
        assert self.state is not None
        policy = self.policy.with_params(self.state.params["policy"])
        logprobs = score_rollout(policy, self.subject, self.completions).old_logprobs
        return float(np.abs(logprobs - self.episodes.old_logprobs)[self.episodes.mask].mean())


def write(policy: Model, subject: Subject) -> list[generate.Completion]:
    """Samples a completion of each prompt."""
    return generate.generate(policy, subject.prompts, subject.sampling, seed=1, batch_size=len(subject.prompts))


def score_rollout(policy: Model, subject: Subject, completions: Sequence[generate.Completion]) -> batch.Episodes:
    """Scores the completions in the update's micro-batches, padded as PPO pads them."""
    width, count = None if subject.loss.masked else subject.sampling.max_new_tokens, len(subject.prompts)
    episodes = batch.pack(subject.prompts, completions, width)
    groups = episodes.first_microbatches(count, max(count // 2, 1), 0)
    temperature = subject.sampling.temperature
    return rollout.score_rollout(policy, policy, None, episodes, temperature=temperature, groups=groups)


def sampling(trial: Trial) -> Measured:
    """Compares log-probabilities while sampling with those when scored."""
    return _gap(consistency.SamplingGap.of(trial.episodes, trial.completions), trial.limits)


def _gap(gap: consistency.SamplingGap, limits: consistency.Limits) -> Measured:
    return Measured(largest([gap.mean, gap.p99 / consistency.TAIL]), limits.sampling_gap, " nats")


def temperature(trial: Trial) -> Measured:
    """Compares scored log-probabilities with log softmax(logits / temperature) of the response tokens, row by row.

    The responses are random and so improbable: another temperature or row changes these most.
    """
    rng, subject, errors = np.random.default_rng(0), trial.subject, []
    lengths = [3 + row % 6 for row in range(len(subject.prompts))]
    responses = [rng.integers(0, trial.policy.config.vocab_size, n).tolist() for n in lengths]
    episodes = score_rollout(trial.policy, subject, [generate.Completion(r, [], True) for r in responses])
    for row, (prompt, response) in enumerate(zip(subject.prompts, responses, strict=True)):
        logits = _logits(trial.policy, jnp.asarray([[*prompt, *response]]))[len(prompt) - 1 : -1]
        scaled = logits / subject.sampling.temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        logprobs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        errors.append(
            np.abs(logprobs[np.arange(len(response)), response] - episodes.old_logprobs[row, : len(response)])
        )
    noise = consistency.rounding_noise(trial.policy, episodes, len(responses), subject.sampling.temperature)
    return Measured(float(np.concatenate(errors).mean()), consistency.Limits.of(noise).sampling_gap, " nats")


def _logits(model: Model, tokens: jax.Array) -> np.ndarray:
    """Returns float32 logits [T, V] of one unpadded row."""
    module = model.bind()
    return np.asarray(module.logits(module(tokens))[0], np.float32)


def ratio(trial: Trial) -> Measured:
    """Measures how far the ratio is from 1 before the first update."""
    trial.updated()
    return Measured(trial.stats["policy/ratio_deviation"], trial.limits.ratio_deviation)


def policy_loss(trial: Trial) -> Measured:
    """Compares the first loss, where the ratio is 1, with minus the mean advantage over the tokens that count."""
    trial.updated()
    mask, advantages = trial.episodes.mask, trial.advantages()
    expected = -advantages.sum() / (mask.sum() if trial.subject.loss.masked else mask.size)
    return Measured(abs(trial.stats["loss/policy"] - expected), 2 * trial.limits.ratio_deviation)


def new_weights_sampled(trial: Trial) -> Measured:
    """Compares sampling with scoring after an update, which must have changed the scored log-probabilities."""
    policy, change = trial.updated(), trial.change()
    completions = write(policy, trial.subject)
    episodes = score_rollout(policy, trial.subject, completions)
    noise = consistency.rounding_noise(policy, episodes, len(trial.subject.prompts), trial.subject.sampling.temperature)
    limits = consistency.Limits.of(noise)
    if not change > 2 * limits.sampling_gap:
        raise ValueError(
            f"updates changed scored log-probabilities by {change:.3g} nats, not by more than "
            f"{2 * limits.sampling_gap:.3g}: scoring does not use the new weights"
        )
    return _gap(consistency.SamplingGap.of(episodes, completions), limits)


def exported(trial: Trial) -> Measured:
    """Compares, to the bit, what the updated model scores with what it scores when saved and loaded again."""
    policy, subject = trial.updated(), trial.subject
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "model", policy, tokenizer=subject.tokenizer)
        again = hf.load(Path(folder) / "model", subject.mesh, **subject.precision)
    one, other = (score_rollout(model, subject, trial.completions).old_logprobs for model in (policy, again))
    return Measured(largest([np.abs(one - other)]), 0.0, " nats")


def transformers(trial: Trial) -> Measured:
    """Compares logits with those that transformers computes from the saved folder, in float32."""
    if importlib.util.find_spec("torch") is None:
        raise Skipped("torch is not installed")
    if trial.policy.config.lora is not None:
        raise Skipped("transformers reads adapters with peft only")
    if sum(x.size for x in jax.tree.leaves(trial.policy.params)) > LARGEST_FOR_TORCH:
        raise Skipped("the model is too large to be loaded a second time")
    torch, auto = importlib.import_module("torch"), importlib.import_module("transformers")
    policy = trial.updated()
    exact = consistency.in_float32(policy)
    auto.utils.logging.disable_progress_bar()
    tokens = np.asarray([[*trial.subject.prompts[0], *trial.completions[0].tokens]])
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "model", policy, tokenizer=trial.subject.tokenizer)
        theirs = auto.AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32)
        with torch.no_grad():
            expected = theirs(torch.tensor(tokens)).logits[0].numpy()
    logits = _logits(exact, jnp.asarray(tokens))
    return Measured(largest([np.abs(logits - expected)]), MARGIN * largest([1.0, np.abs(expected)]))


def resumed(trial: Trial) -> Measured:
    """Compares parameters and moments, to the bit, of a run resumed between two updates with one not resumed."""
    trial.updated()
    start = jax.tree.map(jnp.copy, trial.state)
    with tempfile.TemporaryDirectory() as folder:
        run_directory = RunDirectory(Path(folder), {})
        with Checkpoints(run_directory, every=0) as checkpoints:
            checkpoints.save(1, start, force=True)
        with Checkpoints(run_directory, every=0) as checkpoints:
            restored, _ = checkpoints.restore(start)
    final = jax.device_get((trial.step(start)[0], trial.step(restored)[0]))
    equal = jax.tree.map(np.array_equal, *final)  # False for NaN
    return Measured(sum(not same for same in jax.tree.leaves(equal)), 0, " arrays differ")


def devices(trial: Trial) -> Measured:
    """Compares log-probabilities on one device with those on all of them."""
    if jax.device_count() == 1:
        raise Skipped("there is one device")
    if jax.process_count() > 1:
        raise Skipped("several processes")
    subject, axes = trial.subject, trial.subject.mesh.axis_names
    one = jax.make_mesh((1,) * len(axes), axes, axis_types=subject.mesh.axis_types, devices=jax.devices()[:1])
    with jax.set_mesh(one):
        policy = hf.load(subject.path, one, vocab_size=subject.num_rows, **subject.precision)
        alone = score_rollout(policy, subject, trial.completions).old_logprobs
    gaps = np.abs(alone - trial.episodes.old_logprobs)[trial.episodes.mask]
    return Measured(float(gaps.mean()), 5 * trial.noise + MARGIN, " nats")


def padding(model: Model, prompts: Sequence[Sequence[int]]) -> Measured:
    """Compares outputs at real tokens between two fillings of the padding, on either side: zeros and random tokens.

    Token ids are all that the models take from padding; NaN in the numbers past a response is `padding_in_advantages`.
    """
    rng, width = np.random.default_rng(0), max(map(len, prompts)) + 4
    differences: list[np.ndarray] = []
    for side in ("left", "right"):
        real = [slice(width - len(p), width) if side == "left" else slice(0, len(p)) for p in prompts]
        starts, lengths = np.asarray([s.start for s in real], np.int32), np.asarray(list(map(len, prompts)), np.int32)
        outputs = []
        for fill in (np.zeros((len(prompts), width)), rng.integers(0, model.config.vocab_size, (len(prompts), width))):
            tokens = fill.astype(np.int32)
            for row, prompt in enumerate(prompts):
                tokens[row, real[row]] = prompt
            out = parallel.to_host(forward(model, *parallel.put_batch((tokens, lengths, starts))))
            outputs.append([out[row, part] for row, part in enumerate(real)])
        differences += [np.abs(a - b) for a, b in zip(*outputs, strict=True)]
    return Measured(largest(differences), 0.0)


@jax.jit
def forward(model: Model, tokens: jax.Array, lengths: jax.Array, starts: jax.Array | None = None) -> jax.Array:
    """Returns float32 hidden states [B, S, D], or values [B, S] of a scalar model; arguments as in `CausalLM`."""
    return model.bind()(tokens, lengths, starts=starts).astype(jnp.float32)


def target_loss(
    model: Model, tokenizer: Tokenizer, pairs: Sequence[tuple[Example, Encoded]], noise: float = 0.0
) -> Measured:
    """Compares the loss of fine-tuning with the log-probabilities of the targets' tokens, which spell the targets."""
    pairs = [(example, row) for example, row in pairs if len(row.tokens) < MAX_TOKENS]  # none that is cut
    if not pairs:
        raise Skipped(f"all examples have {MAX_TOKENS} tokens or more")
    for example, row in pairs:
        _check_target(tokenizer, example, row)
    encoded = [row for _, row in pairs]
    batch = language_model.dataset(encoded).collate(np.arange(len(encoded)))
    sums = jax.device_get(jax.jit(language_model.loss_fn)(model, parallel.put_batch(batch)))
    scores = dict(score.stream_logprobs(model, [e.tokens for e in encoded], batch_size=len(encoded)))
    expected = [scores[row].logprobs[e.num_source - 1 :] for row, e in enumerate(encoded)]
    count = sum(map(len, expected))
    if sums["weight"] != count:
        raise ValueError(f"the loss covers {sums['weight']:.0f} tokens, the targets have {count}")
    return Measured(abs(float(sums["loss"]) + sum(map(sum, expected))) / count, 5 * noise + MARGIN, " nats a token")


def _check_target(tokenizer: Tokenizer, example: Example, row: Encoded) -> None:
    """Refuses a row whose tokens after the prompt are not the target and the token that ends it.

    One token may hold the end of the prompt as well as the beginning of the target, and the space before a target may
    be lost in decoding.

    Raises:
      ValueError: names the example, and target and trained text as far as they differ.
    """
    target, where = example.target, f"example {example.example_id!r}"
    if tokenizer.hf is not None:  # what remains of the target in this vocabulary, for example after normalisation
        ids = tokenizer.hf(target, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        target = tokenizer.decode(ids)
    trained = tokenizer.decode(row.tokens[row.num_source : -1])
    rest = tokenizer.decode(row.tokens[row.num_source + 1 : -1])
    joins = trained.endswith(target.lstrip()) and not rest.endswith(target.lstrip())
    if trained not in (target, target.lstrip()) and not joins:
        raise ValueError(f"{where}: the target is {target[:40]!r}, the loss covers {trained[:40]!r}")
    if row.tokens[-1] != tokenizer.end_id(example.prompt):
        raise ValueError(f"{where}: it ends with token {row.tokens[-1]}, not with {tokenizer.end_id(example.prompt)}")


def causal(subject: Subject, pairs: Sequence[tuple[Example, Encoded]]) -> list[Result]:
    """Makes all checks of a causal model."""
    trial = Trial.of(subject)
    checks: dict[str, Callable[[], Measured]] = {
        "sampled = scored log-probabilities": lambda: sampling(trial),
        "scored = log softmax(logits / temperature)": lambda: temperature(trial),
        "the ratio is 1 before an update": lambda: ratio(trial),
        "the first loss is minus the mean advantage": lambda: policy_loss(trial),
        "new weights in sampler and scorer": lambda: new_weights_sampled(trial),
        "new weights in the export, to the bit": lambda: exported(trial),
        "transformers has the same logits": lambda: transformers(trial),
        "resumed = not interrupted": lambda: resumed(trial),
        "1 device = all devices": lambda: devices(trial),
        "tokens in padding change nothing": lambda: padding(trial.policy, subject.prompts),
        "the loss covers exactly the target": lambda: target_loss(trial.policy, subject.tokenizer, pairs, trial.noise),
    }
    return [Result.of(name, check) for name, check in checks.items()]
