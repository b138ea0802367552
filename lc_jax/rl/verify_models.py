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
from lc_jax.inference import generate, score
from lc_jax.models import hf, registry
from lc_jax.models.transformer import Model, trainable
from lc_jax.rl import consistency, rollout, update
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.verify import Measured, Result, Skipped
from lc_jax.training import language_model
from lc_jax.training import state as states
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.logging import Destination
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

RATE = 2e-3  # learning rate of the one update, so large that stale weights are far beyond rounding
LARGEST_FOR_TORCH = 2_000_000_000  # parameters, above which a second copy in transformers takes too long
MARGIN = 1e-3  # nats or logits, beside the rounding noise


@dataclasses.dataclass(frozen=True)
class Subject:
    """A causal model and what is done with it."""

    path: str
    precision: dict[str, str]
    tokenizer: Any  # data.tokenizer.Tokenizer
    prompts: Sequence[Sequence[int]]  # of unequal length, 2 or more
    sampling: generate.Sampling
    mesh: jax.sharding.Mesh
    optimizer: str = "adamw"
    num_rows: int | None = None  # of the embedding, where the tokenizer has grown


@dataclasses.dataclass
class Trial:
    """One rollout of a subject and one update on it; what the checks look at."""

    subject: Subject
    policy: Model
    completions: list[generate.Completion]
    seen: rollout.Rollout
    noise: float
    state: states.TrainState | None = None
    stats: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, subject: Subject) -> Trial:
        """Samples and scores with the production functions."""
        policy = hf.load(subject.path, subject.mesh, vocab_size=subject.num_rows, **subject.precision)
        completions = write(policy, subject)
        seen = look(policy, subject, completions)
        noise = consistency.rounding_noise(policy, seen, len(subject.prompts), subject.sampling.temperature)
        return cls(subject, policy, completions, seen, noise)

    @property
    def limits(self) -> consistency.Limits:
        """Those of PPO."""
        return consistency.Limits.of(self.noise)

    def settings(self) -> update.UpdateSettings:
        """One epoch of one update in micro-batches of half the rollout."""
        count = len(self.subject.prompts)
        return update.UpdateSettings(1, count, max(count // 2, 1), self.subject.sampling.temperature, LossSettings())

    def learners(self) -> update.Learners:
        """The structure of the policy alone."""
        return update.Learners(self.policy, None).with_params(None)

    def optimizer(self) -> Any:
        """Of the one update."""
        kind = self.subject.optimizer
        settings = OptimizerSettings(RATE, 100, 0, "constant", 0.9, 0.999, 1e-8, 0.0, 1.0, kind)
        return make_optimizer(settings, trainable({"policy": self.policy.params}))

    def step(self, state: states.TrainState) -> tuple[states.TrainState, dict[str, float]]:
        """One update, with advantages of both signs."""
        mask = np.asarray(self.seen.episodes.mask)
        advantages = np.where(np.arange(len(mask))[:, None] % 2, 1.0, -1.0).astype(np.float32) * mask
        batch = update.Minibatch(self.seen, advantages, np.zeros_like(advantages))
        state, (stats,) = update.update(
            state, self.learners(), batch, tx=self.optimizer(), settings=self.settings(), seed=0
        )
        return state, stats

    def copy(self) -> states.TrainState:
        """A fresh state around a copy of the parameters: an update overwrites its own."""
        params = jax.tree.map(jnp.copy, self.policy.params)
        return states.create({"policy": params}, self.optimizer())

    def updated(self) -> Model:
        """The policy after one update, which is made at the first call."""
        if self.state is None:
            self.state, self.stats = self.step(self.copy())
        return self.policy.with_params(self.state.params["policy"])


def write(policy: Model, subject: Subject) -> list[generate.Completion]:
    """Completions of all prompts."""
    return generate.generate(policy, subject.prompts, subject.sampling, seed=1, batch_size=len(subject.prompts))


def look(policy: Model, subject: Subject, completions: Sequence[generate.Completion]) -> rollout.Rollout:
    """The completions scored, in the update's micro-batches."""
    episodes, count = rollout.pack(subject.prompts, completions), len(subject.prompts)
    settings = update.UpdateSettings(1, count, max(count // 2, 1), 1.0, LossSettings())
    groups = update.first_epoch(episodes, settings, 0)
    temperature = subject.sampling.temperature
    return rollout.look(policy, policy, None, episodes, episodes, temperature=temperature, groups=groups)


def sampling(trial: Trial) -> Measured:
    """Log-probabilities while sampling are those of scoring."""
    return _gap(consistency.SamplingGap.of(trial.seen, trial.completions), trial.limits)


def _gap(gap: consistency.SamplingGap, limits: consistency.Limits) -> Measured:
    return Measured(max(gap.mean, gap.p99 / consistency.TAIL), limits.sampling_gap, " nats")


def temperature(trial: Trial) -> Measured:
    """Scored log-probabilities are log softmax(logits / temperature) of the response tokens, row by row.

    Of random responses, which are improbable: there another temperature or row is seen best.
    """
    rng, subject, worst = np.random.default_rng(0), trial.subject, []
    lengths = [3 + row % 6 for row in range(len(subject.prompts))]
    responses = [rng.integers(0, trial.policy.config.vocab_size, n).tolist() for n in lengths]
    seen = look(trial.policy, subject, [generate.Completion(r, [], True) for r in responses])
    for row, (prompt, response) in enumerate(zip(subject.prompts, responses, strict=True)):
        logits = _logits(trial.policy, jnp.asarray([[*prompt, *response]]))[len(prompt) - 1 : -1]
        scaled = logits / subject.sampling.temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        logprobs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        worst.append(np.abs(logprobs[np.arange(len(response)), response] - seen.logprobs[row, : len(response)]))
    noise = consistency.rounding_noise(trial.policy, seen, len(responses), subject.sampling.temperature)
    return Measured(float(np.concatenate(worst).mean()), consistency.Limits.of(noise).sampling_gap, " nats")


def _logits(model: Model, tokens: jax.Array) -> np.ndarray:
    """Float32 logits [T, V] of one unpadded row."""
    module = model.bind()
    return np.asarray(module.logits(module(tokens))[0], np.float32)


def ratio(trial: Trial) -> Measured:
    """Before the first update the ratio is 1."""
    trial.updated()
    return Measured(trial.stats["policy/ratio_deviation"], trial.limits.ratio_deviation)


def new_weights_sampled(trial: Trial) -> Measured:
    """After an update the sampler draws from the new weights, which the scorer has as well."""
    policy = trial.updated()
    moved = look(policy, trial.subject, trial.completions)
    mask = np.asarray(trial.seen.episodes.mask)
    change = float(np.abs(moved.logprobs - trial.seen.logprobs)[mask].mean())
    completions = write(policy, trial.subject)
    seen = look(policy, trial.subject, completions)
    noise = consistency.rounding_noise(policy, seen, len(trial.subject.prompts), trial.subject.sampling.temperature)
    limits = consistency.Limits.of(noise)
    if change <= 2 * limits.sampling_gap:
        raise ValueError(f"an update changed scored log-probabilities by {change:.3g} nats only: are its weights used?")
    return _gap(consistency.SamplingGap.of(seen, completions), limits)


def exported(trial: Trial) -> Measured:
    """Saved and loaded again, the updated model scores as before, to the bit."""
    policy, subject = trial.updated(), trial.subject
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "model", policy, tokenizer=subject.tokenizer)
        again = hf.load(Path(folder) / "model", subject.mesh, **subject.precision)
    one, other = (look(model, subject, trial.completions).logprobs for model in (policy, again))
    return Measured(float(np.abs(one - other).max()), 0.0, " nats")


def transformers(trial: Trial) -> Measured:
    """transformers computes the same logits from the saved folder, in float32."""
    if importlib.util.find_spec("torch") is None:
        raise Skipped("torch is not installed")
    if sum(x.size for x in jax.tree.leaves(trial.policy.params)) > LARGEST_FOR_TORCH:
        raise Skipped("the model is too large to be loaded a second time")
    torch, auto = importlib.import_module("torch"), importlib.import_module("transformers")
    policy = trial.updated()
    exact = registry.abstract(dataclasses.replace(policy.config, compute_dtype="float32")).with_params(policy.params)
    auto.utils.logging.disable_progress_bar()
    tokens = np.asarray([[*trial.subject.prompts[0], *trial.completions[0].tokens]])
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "model", policy, tokenizer=trial.subject.tokenizer)
        theirs = auto.AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32)
        with torch.no_grad():
            expected = theirs(torch.tensor(tokens)).logits[0].numpy()
    logits = _logits(exact, jnp.asarray(tokens))
    return Measured(float(np.abs(logits - expected).max()), MARGIN * max(1.0, float(np.abs(expected).max())))


def resumed(trial: Trial) -> Measured:
    """A run saved and resumed between two updates has the same parameters and moments as one that was not, bitwise."""
    trial.updated()
    start = jax.tree.map(jnp.copy, trial.state)
    with tempfile.TemporaryDirectory() as folder:
        destination = Destination(Path(folder), {})
        with Checkpoints(destination, every=0) as checkpoints:
            checkpoints.save(1, start, force=True)
        with Checkpoints(destination, every=0) as checkpoints:
            restored, _ = checkpoints.restore(start)
    whole, cut = trial.step(start)[0], trial.step(restored)[0]
    equal = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), jax.device_get(whole), jax.device_get(cut))
    return Measured(sum(not same for same in jax.tree.leaves(equal)), 0, " arrays differ")


def devices(trial: Trial) -> Measured:
    """One device computes what all of them do."""
    if jax.device_count() == 1:
        raise Skipped("there is one device")
    if jax.process_count() > 1:
        raise Skipped("several processes")
    subject, axes = trial.subject, trial.subject.mesh.axis_names
    one = jax.make_mesh((1,) * len(axes), axes, axis_types=subject.mesh.axis_types, devices=jax.devices()[:1])
    with jax.set_mesh(one):
        policy = hf.load(subject.path, one, vocab_size=subject.num_rows, **subject.precision)
        alone = look(policy, subject, trial.completions).logprobs
    mask = np.asarray(trial.seen.episodes.mask)
    return Measured(float(np.abs(alone - trial.seen.logprobs)[mask].mean()), 5 * trial.noise + MARGIN, " nats")


def padding(model: Model, prompts: Sequence[Sequence[int]]) -> Measured:
    """Tokens in padding, on either side, change nothing at real tokens."""
    rng, width = np.random.default_rng(0), max(map(len, prompts)) + 4
    worst = 0.0
    for side in ("left", "right"):
        spans = [(width - len(p), width) if side == "left" else (0, len(p)) for p in prompts]
        outputs = []
        for fill in (np.zeros((len(prompts), width)), rng.integers(0, model.config.vocab_size, (len(prompts), width))):
            tokens = fill.astype(np.int32)
            for row, prompt in enumerate(prompts):
                tokens[row, slice(*spans[row])] = prompt
            out = parallel.to_host(_hidden(model, *parallel.put_batch((tokens, np.asarray(spans, np.int32)))))
            outputs.append([out[row, slice(*span)] for row, span in enumerate(spans)])
        worst = max(worst, *(float(np.abs(a - b).max()) for a, b in zip(*outputs, strict=True)))
    return Measured(worst, 0.0)


@jax.jit
def _hidden(model: Model, tokens: jax.Array, spans: jax.Array) -> jax.Array:
    return model.bind()(tokens, spans).astype(jnp.float32)


def target_loss(model: Model, encoded: Sequence[Encoded], noise: float = 0.0) -> Measured:
    """The loss of fine-tuning is that of the targets' tokens, all of them and no others."""
    batch = language_model.dataset(encoded).collate(np.arange(len(encoded)))
    sums = jax.device_get(jax.jit(language_model.loss_fn)(model, parallel.put_batch(batch)))
    scores = dict(score.stream_logprobs(model, [e.tokens for e in encoded], batch_size=len(encoded)))
    expected = [scores[row].logprobs[e.num_source - 1 :] for row, e in enumerate(encoded)]
    count = sum(map(len, expected))
    if sums["weight"] != count:
        raise ValueError(f"the loss covers {sums['weight']:.0f} tokens, the targets have {count}")
    return Measured(abs(float(sums["loss"]) + sum(map(sum, expected))) / count, 5 * noise + MARGIN, " nats a token")


def with_random_head(model: Model) -> Model:
    """A scalar model whose head is not zero, as that of a fresh critic is."""

    def changed(path: tuple, leaf: jax.Array) -> jax.Array:
        names = [str(getattr(key, "key", "")) for key in path]
        if "reward_head" not in names or np.asarray(leaf).any():
            return leaf
        return jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype)

    return model.with_params(jax.tree_util.tree_map_with_path(changed, model.params))


def head_position(model: Model, prompts: Sequence[Sequence[int]]) -> Measured:
    """A reward is the head's number at the last token, a value the one before each response token; relative error."""
    model = with_random_head(model)
    alone = [np.asarray(_hidden(model, jnp.asarray([p]), jnp.asarray([[0, len(p)]])))[0] for p in prompts]
    scale = max(float(np.abs(np.concatenate(alone)).max()), 1.0)
    found = dict(score.stream_rewards(model, prompts, batch_size=len(prompts)))
    grouped = [float(values[-1]) for values in score.group_rewards(model, [[p] for p in prompts], batch_size=4)]
    worst = max(max(abs(found[i] - a[-1]), abs(grouped[i] - a[-1])) for i, a in enumerate(alone))
    cut = [max(len(p) // 2, 1) for p in prompts]
    completions = [generate.Completion(list(p[c:]), [], True) for p, c in zip(prompts, cut, strict=True)]
    episodes = rollout.pack([p[:c] for p, c in zip(prompts, cut, strict=True)], completions)
    values = np.asarray(jax.jit(rollout.critic_values)(model, parallel.put_batch(episodes)))
    for row, (whole, c) in enumerate(zip(alone, cut, strict=True)):
        worst = max(worst, float(np.abs(values[row, : len(whole) - c] - whole[c - 1 : -1]).max(initial=0.0)))
    exact = jnp.dtype(model.config.compute_dtype) == jnp.float32
    return Measured(worst / scale, 1e-3 if exact else 0.1)


def causal(subject: Subject, encoded: Sequence[Encoded]) -> list[Result]:
    """All checks of a causal model."""
    trial = Trial.of(subject)
    checks: dict[str, Callable[[], Measured]] = {
        "sampled = scored log-probabilities": lambda: sampling(trial),
        "scored = log softmax(logits / temperature)": lambda: temperature(trial),
        "the ratio is 1 before an update": lambda: ratio(trial),
        "new weights in sampler and scorer": lambda: new_weights_sampled(trial),
        "new weights in the export, to the bit": lambda: exported(trial),
        "transformers has the same logits": lambda: transformers(trial),
        "resumed = not interrupted": lambda: resumed(trial),
        "1 device = all devices": lambda: devices(trial),
        "tokens in padding change nothing": lambda: padding(trial.policy, subject.prompts),
        "the loss covers exactly the target": lambda: target_loss(trial.policy, encoded, trial.noise),
    }
    return [Result.of(name, check) for name, check in checks.items()]


def scalar(model: Model, prompts: Sequence[Sequence[int]], name: str) -> list[Result]:
    """All checks of a reward model or critic."""
    checks: dict[str, Callable[[], Measured]] = {
        f"{name}: the head's position": lambda: head_position(model, prompts),
        f"{name}: tokens in padding change nothing": lambda: padding(with_random_head(model), prompts),
    }
    return [Result.of(label, check) for label, check in checks.items()]
