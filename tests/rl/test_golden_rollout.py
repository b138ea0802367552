"""Three PPO steps (lc_jax/rl/step.py) as the published trainer took them: on its responses and extracted answers.

Nothing recorded is fed in but what was fixed there too: the texts, the models, and the tokens that policy and extractor
"generate". Everything later is computed here from what was computed here before.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.models import hf
from lc_jax.models.transformer import trainable
from lc_jax.prompts import Prompt
from lc_jax.rl import advantage, batch, kl, loss, reader, reward, rollout, update
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.settings import PPOSettings
from lc_jax.rl.step import Trainer, step
from lc_jax.rl.writer import PolicyWriter
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from lc_jax.types import Question
from tests import recorded
from tests.rl.records import outcomes_of
from tests.rl.test_update import hf_names

pytestmark = pytest.mark.slow  # test_update.py takes a published step in less
PRECISION = {"param_dtype": "float32", "compute_dtype": "float32"}
NUM_STEPS = 3
SEEDS = {"policy": 301, "critic": 302, "forecaster": 303}


@dataclasses.dataclass(frozen=True)
class Text:
    """The recorded texts, and the tokens of prompts and responses."""

    case: dict  # ppo_step.json: text_rollout / decision_based_rl
    templates: dict[str, Prompt]
    tokenizer: object
    questions: list[Question]
    completions: list[generate.Completion]
    extractions: list[str]

    @property
    def prompts(self):
        """Token ids of every question's prompt."""
        texts = [self.templates["policy"].render(paragraph_generation_prompt=q.prompt) for q in self.questions]
        return [self.tokenizer.encode_prompt(text) for text in texts]

    @property
    def paragraphs(self):
        """The responses as the published rollout decodes them: without spaces before punctuation."""
        return [self.tokenizer.decode(c.tokens, clean_up=True) for c in self.completions]


@dataclasses.dataclass(frozen=True)
class Step:
    """Results of one step, on the host."""

    episodes: batch.Episodes
    shaped: np.ndarray
    last: dict  # statistics of the last two rows: the published code keeps those of its last micro-batch
    updated: dict  # statistics of the whole step
    parameters: dict  # after the step, by recorded name


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The recorded models as checkpoint folders."""
    root, config = tmp_path_factory.mktemp("models"), recorded.llama_config(513, 32, 48)
    weights = {name: recorded.llama_weights(config, seed) for name, seed in SEEDS.items()}
    head = {"weight": 0.4 * recorded.normal(305, 1, 32), "bias": np.full(1, -0.5, np.float32)}
    return {
        name: recorded.save_model(root / name, config, tensors, head if name == "forecaster" else None)
        for name, tensors in weights.items()
    }


@pytest.fixture(scope="module")
def text(golden):
    published = recorded.load(golden / "ppo_step.json")["text_rollout"]
    case, rows = published["decision_based_rl"], published["rows"]
    columns = ("question_id", "paragraph_generation_prompt", "question", "ground_truth_top_answer")
    tokenizer = load_tokenizer(golden / "tokenizer_tiny")
    responses = [[t for t in row if t != case["pad_token_id"]] for row in case["responses"].tolist()]
    return Text(
        case,
        {name: Prompt(template) for name, template in published["templates"].items()},
        tokenizer,
        [Question(*fields) for fields in zip(*(rows[c] for c in columns), strict=True)],
        [generate.Completion(r, [], finished=r[-1] == tokenizer.eos_id) for r in responses],
        published["extraction_texts"],
    )


@pytest.fixture(scope="module")
def mesh():
    mesh = parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture(scope="module")
def surrogate(folders, text, mesh):
    """The recorded reader."""

    def part(path, kind, template):
        model = hf.load(path, mesh, kind=kind, **PRECISION)
        return reader.ReaderModel(model, text.tokenizer, text.templates[template], max_length=256, batch_size=4)

    args = text.case["answer_extractor_generate_kwargs"]
    sampling = generate.Sampling(args["max_new_tokens"], args["temperature"], eos_ids=(args["eos_token_id"],))
    # Any language model will do as an extractor that does not get to write.
    extractor = reader.Extractor(part(folders["policy"], "causal", "extract"), sampling, max_answers=4)
    return reader.Reader(extractor, part(folders["forecaster"], "scalar", "reward"))


@contextlib.contextmanager
def recorded_texts(text):
    """Policy and extractor write what was recorded; everything that they are asked is checked."""

    def write(model, prompts, sampling, *, seed, batch_size):
        if prompts == text.prompts:
            return text.completions
        pairs = zip(text.questions, text.paragraphs, strict=True)
        texts = [text.templates["extract"].render(question=q.question, generated_paragraph=z) for q, z in pairs]
        assert prompts == [text.tokenizer.encode_prompt(t) for t in texts]
        extractions = [text.tokenizer.encode_prompt(t)[1:] + list(sampling.eos_ids) for t in text.extractions]
        return [generate.Completion(tokens, [], finished=True) for tokens in extractions]

    pack = batch.pack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "generate", write)
        patch.setattr(batch, "pack", lambda *args: with_pads(pack(*args), text.case["pad_token_id"]))
        yield


@pytest.fixture(scope="module")
def reading(surrogate, text):
    """The reader's answers and forecasts for the recorded paragraphs."""
    with recorded_texts(text):
        return surrogate.read(text.questions, text.paragraphs, seed=0)


@pytest.fixture(scope="module")
def reward_settings(text):
    args = text.case["args"]
    return reward.RewardSettings(
        "decision_based",
        args["answer_extractor_normalization_lambda"],
        args["reward_offset"],
        args["cross_entropy_epsilon"],
    )


@pytest.fixture(scope="module")
def rewards(reading, reward_settings):
    return reward.compute(reading.forecasts, outcomes_of(reading.forecasts), reward_settings)


@pytest.fixture(scope="module")
def optimizer(text):
    """The published default in effect: AdamW's own weight decay of 0.01 on every parameter."""
    args, (adamw,) = text.case["args"], text.case["optimizer_constructor"]
    return OptimizerSettings(
        adamw["lr"], args["total_steps"], args["warmup_steps"], "linear", *adamw["betas"], adamw["eps"],
        adamw["weight_decay"], args["max_grad_norm"],
    )  # fmt: skip


def with_pads(episodes, pad):
    """The same episodes, padded with `pad`.

    `pack` pads with 0, a choice of ours: no real position sees it. The published statistics over all positions do, by
    the entropies and values that the models compute at pads.
    """
    ends = episodes.prompt_lengths + episodes.lengths
    tokens = np.where(np.arange(episodes.tokens.shape[1]) < ends[:, None], episodes.tokens, pad)
    responses = np.where(episodes.mask, episodes.responses, pad)
    return dataclasses.replace(episodes, tokens=tokens, responses=responses, critic_tokens=tokens)


@pytest.fixture(scope="module")
def trainer(folders, text, mesh, surrogate, reward_settings, optimizer):
    """The published settings around the recorded models, and a fresh state."""
    args = text.case["args"]
    policy, reference = (hf.load(folders["policy"], mesh, **PRECISION) for _ in range(2))
    critic = hf.load(folders["critic"], mesh, kind="scalar", fresh_head=True, **PRECISION)
    actor_critic = ActorCritic(policy, critic)
    tx, sampling = make_optimizer(optimizer, trainable(actor_critic.params())), generate.Sampling(args["response_len"])
    ppo = PPOSettings(
        num_steps=NUM_STEPS, rollout_batch_size=len(text.questions), num_samples=1, num_epochs=args["noptepochs"],
        minibatch_size=args["step_batch_size"], microbatch_size=args["step_per_device_batch_size"],
        decode_batch_size=8, frozen_on_host=False, query_length=512, response_length=args["response_len"],
        temperature=args["temperature"], kl_coef=args["kl_coef"], baseline="critic", stop_penalty=False, eval_every=0,
        save_every=0, keep=1, num_validation=0, num_candidates=0, first_candidate=0, max_ratio_deviation=0.0,
        max_sampling_gap=0.0, clean_up=True,
    )  # fmt: skip
    return Trainer(
        writer=PolicyWriter(text.tokenizer, text.templates["policy"], None, sampling, 8),
        reader=surrogate,
        reference=reference,
        structure=actor_critic.with_params(None),
        optimizer=optimizer,
        tx=tx,
        ppo=ppo,
        reward=reward_settings,
        advantage=advantage.AdvantageSettings(
            args["gamma"], args["lam"], args["whiten_rewards"], clamp_kl=True, masked=False
        ),
        loss=loss.LossSettings(args["cliprange"], args["cliprange_value"], args["vf_coef"], masked=False),
        seed=0,
    ), states.create(actor_critic.params(), tx)


@pytest.fixture(scope="module")
def steps(folders, text, mesh, rewards, trainer):
    """The state goes through three steps of PPO, in the published arithmetic."""
    (trainer, state), done = trainer, []
    controller = kl.make("fixed", trainer.ppo.kl_coef, target=6.0, k_beta=0.1)
    temperature = jnp.float32(trainer.ppo.temperature)
    for number in range(NUM_STEPS):
        models = trainer.structure.with_params(jax.tree.map(jnp.copy, state.params))  # the step donates its own
        with recorded_texts(text):
            result = step(trainer, state, controller, text.questions, number)
        state, controller, episodes = result.state, result.controller, result.episodes
        shaped = advantage.shape_rewards(
            rewards.total, episodes.old_logprobs, episodes.ref_logprobs, episodes.lengths, trainer.ppo.kl_coef, True
        )
        tail = jax.tree.map(lambda x: x[-trainer.ppo.microbatch_size :], episodes)
        count = loss.num_positions(tail.mask, trainer.loss)
        parts = [
            update.OBJECTIVES[name](model, tail, count, temperature, trainer.loss)
            for name, model in models.models().items()
        ]
        last = {key: value for _, stats in parts for key, value in stats.items()}
        last["loss"] = sum(loss for loss, _ in parts)
        arrays = hf_names(state.params, folders, mesh)
        done.append(Step(episodes, shaped, jax.device_get(last), result.stats, arrays))
    return done


def starting_parameters(folders):
    """By recorded name; the value head is zero."""
    policy, critic = (load_file(folders[name] / "model.safetensors") for name in ("policy", "critic"))
    arrays = {f"policy.base_model.{k}": v for k, v in policy.items()}
    arrays |= {f"value_model.base_model.{k}": v for k, v in critic.items()}
    head = {"weight": np.zeros((1, 32), np.float32), "bias": np.zeros(1, np.float32)}
    return arrays | {f"value_model.value_head.{k}": v for k, v in head.items()}


def test_prompts_and_responses(text):
    published = recorded.tensors("b_decision_based_rl_rollouts_step1")
    real = published["query_attn_masks"] == 1
    assert text.prompts == [row[mask].tolist() for row, mask in zip(published["queries"], real, strict=True)]
    packed = batch.pack(text.prompts, text.completions, text.case["args"]["response_len"])
    np.testing.assert_array_equal(with_pads(packed, text.case["pad_token_id"]).responses, published["responses"])
    for row, prompt in enumerate(text.prompts):
        whole = [*prompt, *text.completions[row].tokens]
        assert packed.tokens[row].tolist() == whole + [0] * (packed.tokens.shape[1] - len(whole))
    assert text.paragraphs == text.case["decoded_responses"]
    assert [c.finished for c in text.completions] == [True] * 5 + [False] + [True] * 2


def test_forecasts_and_rewards(text, reading, rewards):
    """Row by row; the order of a row's extracted answers is the text's here, and that of a Python set there."""
    calls, first = text.case["first_step_reward_calls"], 0
    forecasts = reading.forecasts
    for call in calls:
        rows = range(first, first + len(call["n_samples_per_example"]))
        assert [1 + len(reading.answers[row]) for row in rows] == call["n_samples_per_example"]
        for row, logits in zip(rows, call["logits_grouped_sorted"], strict=True):
            np.testing.assert_allclose(forecasts.target_logits[row], logits["ground_truth"], atol=2e-5)
            extracted = np.sort(forecasts.answer_logits[row][forecasts.answer_mask[row]])
            np.testing.assert_allclose(extracted, logits["extracted_sorted"], atol=2e-5)
        offset = text.case["reward_offset"]
        # The logits' last digits come out multiplied by lambda.
        np.testing.assert_allclose(rewards.total[rows], call["total_rewards"] + offset, rtol=1e-5, atol=2e-5)
        first += len(rows)
    assert first == len(text.questions)
    # Blanks between separators are answers and repetitions are not; only "No Answer" to the letter is no answer.
    assert reading.answers[2:5] == [[], [""], ["Emil", "Ivo", ""]]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_rollout_and_advantages(rewards, steps, number):
    """At every position, pads included. The second step starts from the first one's models: its rate was 0."""
    step = steps[number]
    published = recorded.tensors(f"b_decision_based_rl_rollouts_step{3 if number == 2 else 1}")
    tolerance = {"rtol": 1e-5, "atol": 2e-5}
    episodes = step.episodes
    for name in ("ref_logprobs", "entropies", "advantages", "returns"):
        np.testing.assert_allclose(getattr(episodes, name), published[name], **tolerance, err_msg=name)
    np.testing.assert_allclose(episodes.old_logprobs, published["logprobs"], **tolerance)
    np.testing.assert_allclose(episodes.old_values, published["values"], **tolerance)
    clamped = np.maximum(episodes.old_logprobs - episodes.ref_logprobs, 0)
    np.testing.assert_allclose(clamped, published["kl"], **tolerance)
    np.testing.assert_allclose(rewards.total, published["rewards"], **tolerance)
    np.testing.assert_allclose(step.shaped, published["shaped_rewards"], **tolerance)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_statistics(text, optimizer, steps, number):
    published, step = text.case["steps"][number], steps[number]
    logged, episodes = published["logged_stats"], step.episodes
    clamped = np.maximum(episodes.old_logprobs - episodes.ref_logprobs, 0)
    stats = {
        "objective/kl_sum_seq": clamped.sum(axis=1).mean(),
        "objective/kl_avg_seq": clamped.mean(),
        "objective/shaped_rewards": step.shaped.sum(axis=1).mean(),
        "objective/entropies": episodes.entropies.mean(),
        "ppo/loss/total": step.last["loss"],
        "ppo/loss/grad_norm": step.updated["grad_norm"],
    }
    stats |= {f"ppo/{name}": value for name, value in step.last.items() if f"ppo/{name}" in logged}
    for name, value in stats.items():
        np.testing.assert_allclose(value, logged[name], rtol=1e-5, atol=5e-6, err_msg=name)
    assert len(stats) == 16
    np.testing.assert_allclose(step.updated["grad_norm"], published["grad_total_norm_before_clip"][0], rtol=1e-4)
    assert abs(step.updated["policy/ratio_deviation"]) < 1e-5
    # The published code logs the rate of the next step.
    rates = [float(optimizer.learning_rate_at(i)) for i in (number, number + 1)]
    np.testing.assert_allclose(rates, [published["lr_used"], logged["objective/lr"]], rtol=1e-6)


def test_parameters(folders, text, steps):
    """After each step by their norms and by how far they moved, after the last one tensor by tensor."""
    before, tolerance = starting_parameters(folders), 0.0
    for done, published in zip(steps, text.case["steps"], strict=True):
        after, rate = done.parameters, published["lr_used"]
        assert after.keys() == before.keys()
        changes = {name: after[name] - before[name] for name in after}
        norm = np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in after.values()))
        # Tight enough to miss the weight decay, which moves a parameter by rate / 100.
        np.testing.assert_allclose(norm, published["param_norm_after"], rtol=1e-6)
        largest = max(np.abs(change).max() for change in changes.values())
        np.testing.assert_allclose(largest, published["max_abs_param_change"], atol=0.02 * rate)
        for name, expected in published["delta_norms"].items():
            np.testing.assert_allclose(np.linalg.norm(changes[name]), expected, rtol=5e-4, err_msg=name)
        before, tolerance = after, tolerance + 0.02 * rate
    last = recorded.tensors("b_decision_based_rl_params_after_step3")
    assert last.keys() == before.keys()
    for name, expected in last.items():
        np.testing.assert_allclose(recorded.sample(before[name]), expected, rtol=0, atol=tolerance, err_msg=name)


def test_what_pads_hold_matters_at_pads_alone(folders, text, mesh, steps):
    """`pack`'s own padding gives every real position the same numbers."""
    args, padded = text.case["args"], steps[0].episodes
    policy = hf.load(folders["policy"], mesh, **PRECISION)
    packed = batch.pack(text.prompts, text.completions, args["response_len"])
    groups, mask = packed.groups(8), packed.mask
    plain = rollout.score_rollout(policy, policy, None, packed, temperature=args["temperature"], groups=groups)
    np.testing.assert_allclose(plain.old_logprobs, padded.old_logprobs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plain.entropies[mask], padded.entropies[mask], rtol=1e-5, atol=1e-6)
    assert np.abs(plain.entropies - padded.entropies)[~mask].max() > 1e-3
