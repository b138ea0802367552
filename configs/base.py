"""Settings that experiments share. A config file adds its own; a flag can override any setting."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict, FieldReference

import lc_jax
from lc_jax import settings

# The miniature's base models ship with the package; configs/pretrain.py remakes them.
CHECKPOINTS = str(Path(lc_jax.__file__).parent / "miniature" / "checkpoints")
LLAMA, GPT_NEOX = f"{CHECKPOINTS}/llama", f"{CHECKPOINTS}/gpt_neox"
TRIVIA_QA = "mandarjoshi/trivia_qa:unfiltered.nocontext"
FIGURES = str(settings.REPOSITORY / "benchmarks" / "results")
ANNOTATOR = "simulated/miniature"  # reads and judges in the miniature world


def environment(name: str, default: str) -> str:
    """Returns an environment variable, stripped and with its path expanded; `default` if it is unset or empty.

    Raises:
      ValueError: a path in a home folder that does not exist.
    """
    try:
        return settings.expand_path(os.environ.get(name, "").strip()) or default
    except ValueError as error:
        raise ValueError(f"{name}={os.environ[name]}: {error}") from error


def root() -> str:
    """Returns the folder of the miniature's models and data: LC_OUTPUT, default runs/miniature."""
    return environment("LC_OUTPUT", "runs/miniature")


def seed() -> int:
    """Returns LC_SEED, the seed of the miniature, default 0.

    Raises:
      ValueError: it is not a whole number.
    """
    text = environment("LC_SEED", "0")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"LC_SEED={text}: set this environment variable to a whole number from 0 on, or unset it.")
    return int(text)


def published_data() -> str:
    """Returns the published data set: its hub name (a source may add "@revision"), or LC_DATASET, a local copy."""
    return environment("LC_DATASET", "tatsu-lab/linguistic_calibration")


def trivia_qa() -> str:
    """Returns TriviaQA's questions and answers, which the published data set omits; or LC_TRIVIA_QA, a local copy."""
    return environment("LC_TRIVIA_QA", TRIVIA_QA)


def compilation_cache() -> str:
    """Returns the folder of compiled programs: `xla` in LC_CACHE, which is ~/.cache/lc_jax by default."""
    return f"{environment('LC_CACHE', str(Path.home() / '.cache' / 'lc_jax'))}/xla"


def check_mode(mode: str, modes: Sequence[str]) -> None:
    """Raises ValueError if `mode` is not one of `modes`; "" is the config file alone."""
    if mode in modes:
        return
    near = difflib.get_close_matches(mode, modes, 1)
    hint = f"did you mean ':{near[0]}'? " if near and near[0] else ""
    choices = " or ".join(f"':{name}'" for name in modes if name)
    alone = "give the config file alone, or with" if "" in modes else "give the config file with"
    raise ValueError(f"unknown mode ':{mode}': {hint}{alone} {choices}.")


def base_config(task: str, mode: str) -> ConfigDict:
    """The settings that every task takes.

    Raises:
      ValueError: a mode other than "" and "mini".
    """
    check_mode(mode, ("", "mini"))
    mini = mode == "mini"
    settings = {
        "task": task,
        "published": False,  # True: the arithmetic of the published code, row by row in docs/published.md
        "seed": seed() if mini else 42,  # of sampling, shuffling and new heads
        "mesh": {"data": 1, "fsdp": -1, "tensor": 1},  # devices along each axis; -1: all others
        "precision": {
            "param_dtype": "float32",  # of trained parameters
            "compute_dtype": "float32" if mini else "bfloat16",  # of matrix products
            "remat": "none" if mini else "full",  # "full": recomputes activations in the backward pass
        },
        "compilation_cache": compilation_cache(),  # folder of compiled programs, at most 5 GB; "" keeps none
        "kernels": "auto",  # "portable": plain XLA for attention and logits; or another of kernels/dispatch.py
        "templates": "short" if mini else "full",  # "chat": paragraphs by the chat template; "auto"; a folder
        "dry_run": False,  # prints the memory that the run would take, or what its requests would cost, and stops
        "prompt_dir": "",  # a folder of wordings under the published names, which replace ours
    }
    config = ConfigDict(settings)
    config.precision.kernels = config.get_ref("kernels")  # the same as `kernels`
    return config


def training(config: ConfigDict, **optimizer: object) -> ConfigDict:
    """Adds what every trainer takes: an optimiser (published settings unless given) and where to log."""
    config.optimizer = {
        "learning_rate": 5e-6,  # the highest, after the warm-up
        "schedule": "cosine",  # from there to 0; or "linear", "constant"
        "warmup_ratio": 0.03,  # fraction of all steps in which the learning rate rises from 0; or `warmup_steps`
        "b1": 0.9,  # AdamW's
        "b2": 0.999,  # AdamW's
        "eps": 1e-8,  # AdamW's
        "weight_decay": 0.0,  # of every trained parameter
        "clip_norm": 1.0,  # maximum global norm of the gradient
        "kind": "adamw",  # or "adamw_int8", "adamw_int8_master": with precision.param_dtype="bfloat16"
    } | optimizer
    config.lora = dict(
        rank=0,  # of low-rank adapters, trained in place of all parameters (docs/lora.md); 0: all are trained
        alpha=16.0,  # what adapters add is scaled by alpha / rank
        targets="",  # linear layers with an adapter, such as q,k,v,o,gate,up,down; "": all of the block
        dropout=0.0,  # of an adapter's input; only 0 is implemented
        int8=False,  # stores frozen matrices in 8 bits
    )
    config.export_every = 0  # steps between Hugging Face folders of the model in <output>/steps; 0: only at the end
    config.export_dtype = ""  # of the Hugging Face checkpoints that the run writes; "": as the parameters are
    config.wandb = dict(
        project="",  # a name switches W&B on
        mode="online",  # or "offline"
    )
    return config


def questions(split: str, mini: bool = False) -> ConfigDict:
    """Returns the sources of a split's questions: prompts, joined with TriviaQA's questions and answers by id."""
    if mini:
        return ConfigDict(dict(source="miniature", split=split, answers=None, answers_split=None, columns=""))
    prompts = f"{published_data()}:trivia_qa_paragraph_generation"
    sources = {
        "source": prompts,  # of prompts: a file, a folder or the hub's name:configuration@revision
        "split": split,  # of `source`
        "columns": "",  # names of the columns, OURS=YOURS with commas between
        "answers": trivia_qa(),  # the source of questions and answers, where `source` has none
        "answers_split": "validation" if split == "test" else "train",  # of `answers`
    }
    return ConfigDict(sources)


# Test questions by name: (their prompts' configuration, where questions and answers are, which split of that). What has
# "" is not served by the hub: data.questions.NOT_SERVED says what to fetch.
TESTS = {
    "trivia_qa": ("TriviaQA", TRIVIA_QA, "validation"),
    "jeopardy": ("Jeopardy", "", None),
    "sciq": ("SciQ", "allenai/sciq", "train+validation+test"),
    "bioasq": ("BioASQ", "", None),
}


def test_questions(name: str) -> ConfigDict:
    """Returns the published test questions of a data set of TESTS: prompts, joined with questions and answers.

    LC_TRIVIA_QA, LC_JEOPARDY, LC_SCIQ and LC_BIOASQ name files that replace the hub's questions and answers.
    """
    _, answers, split = TESTS[name]
    answers = environment(f"LC_{name.upper()}", answers)
    prompts = f"{published_data()}:{name}_paragraph_generation"
    return ConfigDict({"source": prompts, "split": "test", "columns": "", "answers": answers, "answers_split": split})


def rows(name: str, mini: bool = False) -> dict[str, str | None]:
    """Returns the sources of a training set ("sft" or "reward_model"); the readers' rows are joined with questions.

    `columns` maps the published columns to other names: "claude_summary=text,...".
    """
    if mini:
        source = {"source": f"{root()}/data/{name}.jsonl", "split": None}
        return source | {"questions": "miniature", "questions_split": name, "columns": ""}
    questions, split = (trivia_qa(), "train") if name == "reward_model" else (None, None)
    return {
        "source": f"{published_data()}:{name}_training",  # a file, a folder or the hub's name:configuration@revision
        "split": "train",  # of `source`
        "questions": questions,  # the source of their questions and answers, by question_id
        "questions_split": split,  # of `questions`
        "columns": "",  # names of the rows' columns, OURS=YOURS with commas between
    }


def own_training(task: str, mode: str, recipe: str, warmup_ratio: float, mini_length: int) -> ConfigDict:
    """Returns the config for training on the user's own rows: a file, folder or hub data set that a flag names.

    Args:
      recipe: name of the function from rows to examples (lc_jax/data/examples.py).
      mini_length: maximum tokens of an example in the miniature.
    """
    config = training(base_config(task, mode), learning_rate=5e-6, warmup_ratio=warmup_ratio)
    config.model = ""  # the checkpoint that training starts from
    config.output = f"runs/{task}"  # folder of checkpoints, metrics and the final model
    config.data = dict(
        recipe=recipe,  # from rows to examples (lc_jax/data/examples.py)
        rows=dict(source="", split="", questions="", questions_split="", columns=""),
        eval_size=0,  # examples that are held out for evaluation
        max_length=1024,  # tokens; longer examples are left out
    )
    config.fit = dict(
        num_epochs=3,  # passes over the examples
        batch_size=8,  # examples of a step
        microbatch_size=8,  # examples of a forward and backward pass
        eval_every=100,  # steps
        save_every=100,  # steps
    )
    if mode == "mini":
        config.model, config.output = LLAMA, f"{root()}/{task}"
        config.data.max_length = mini_length
        config.optimizer.learning_rate = 3e-4
    return config


def annotator(name: str = "") -> ConfigDict:
    """Returns the settings of an annotator ("provider/model"); empty ones are left to the provider."""
    settings = {
        "name": name,  # provider/model, such as anthropic/claude-haiku-4-5 or local/CHECKPOINT; "": `annotator`'s
        "base_url": "",  # of a server with the provider's interface
        "batch": False,  # asks through the provider's batch endpoint: half the price, within a day
        "concurrency": 0,  # requests at a time; 0: the provider's default
        "price": (),  # dollars for a million input and output tokens, of a model that lc_jax does not know
    }
    return ConfigDict(settings)


def asking(config: ConfigDict) -> ConfigDict:
    """Adds the settings of every task that asks an annotator."""
    config.annotator = annotator()
    config.store = ""  # file of the annotator's replies; "": replies.sqlite next to the output
    config.budget = 0.0  # dollars that this run may spend; 0 = no limit
    config.dry_run = False  # prints the memory that the run would take, or what its requests would cost, and stops
    config.accept_failed = False  # continue although requests failed, instead of stopping
    return config


def add_sampling(config: ConfigDict, temperature: float) -> None:
    """Adds how a checkpoint samples paragraphs; published: nucleus of 0.9, 512 new tokens at most."""
    published = config.get_ref("published")
    config.temperature = temperature  # of the paragraphs
    config.top_p = 1.0 - 0.1 * published.to_float()  # 1 = any token; checkpoints only
    config.max_new_tokens = 300 + 212 * published.to_int()  # of a paragraph
    config.batch_size = 64  # paragraphs that a checkpoint writes at a time


def add_wording(config: ConfigDict) -> None:
    """Adds which of our wordings an annotator gets when it reads a paragraph."""
    published = config.get_ref("published")
    config.wording = dict(
        reasoning=published.identity(),  # a line of reasoning before the answer
        text_order=published.identity(),  # answers in the order of the paragraph; False: the most probable first
    )


def add_evaluation(config: ConfigDict, roles: Sequence[str]) -> None:
    """Adds what every evaluation takes: who writes the paragraphs, and who reads and judges them.

    The paragraphs come from a file, a checkpoint or a provider's model.

    Args:
      roles: what annotators do in it; each can have an annotator of its own.
    """
    config.paragraphs = ""  # a file of paragraphs to evaluate
    config.column = "generated_paragraph"  # of `paragraphs`; claude_summary evaluates summaries directly
    config.model = ""  # a checkpoint that writes them, where there is no file
    add_sampling(config, temperature=0.3)
    config.writer = annotator()  # a provider's model that writes them
    config.strategy = "finetuned"  # or 8-shot, few-shot, percentage, own-probability, ... (prompts/strategies.py)
    config.uses_confidence = True  # False for methods that state none: the first answer counts, with confidence 1
    config.limit = 0  # questions, or entities; 0 = all
    config.annotators = {role: annotator() for role in roles}  # where one has no name, `annotator` does its part
    config.judge_temperature = 0.2 * config.get_ref("published").to_float()  # of verdicts


def _follow_questions(config: ConfigDict) -> None:
    """Makes validation follow the user's own file; of a file that serves both, some questions are held out."""
    for name in ("source", "columns"):
        config.validation[name] = config.questions.get_oneway_ref(name)


def _reader(published: FieldReference) -> dict[str, object]:
    """Returns the settings of PPO's reader."""
    return dict(
        kind="models",  # or "rules", without models; use them with reward.normalization=0 and reward.epsilon=1e-6
        extractor="",  # checkpoint that lists the answers of a paragraph
        forecaster="",  # reward model that gives their probabilities
        template="forecast_probs",  # what it reads; "factuality" for the factuality reward model
        temperature=0.3,  # of the extractor
        top_k=50 * published.to_int(),  # 0 = any token
        validation_top_p=1.0 - 0.1 * published.to_float(),  # 1 = any token
        max_new_tokens=300,  # of the extractor
        max_answers=16,  # of a paragraph
        max_length=1024,  # tokens that the forecaster reads
        batch_size=64,  # paragraphs that are read at a time
        num_other_answers=100,  # of rules: over which the probability that a statement leaves is spread
    )


def ppo(mode: str) -> ConfigDict:
    """Returns PPO with the published settings (paper section 5 and appendix); the caller adds models and reward."""
    config = training(
        base_config("ppo", mode), learning_rate=1e-5, schedule="linear", warmup_steps=5, eps=1e-5, weight_decay=0.01
    )
    config.questions, config.validation = questions("ppo"), questions("ppo_validation")
    _follow_questions(config)
    config.ppo = dict(
        num_steps=1500,  # rollouts, each followed by its updates
        rollout_batch_size=512,  # episodes: questions x samples
        num_samples=1,  # paragraphs a question
        num_epochs=1,  # updates of a step with each episode
        minibatch_size=512,  # episodes of an update
        microbatch_size=32,  # episodes of a forward or backward pass of policy, reference and critic
        decode_batch_size=128,  # paragraphs that are generated at a time
        frozen_on_host=False,  # keep reference and reader in the host's memory while policy and critic are trained
        query_length=128,  # tokens; questions with longer prompts are left out of training
        response_length=300,  # tokens
        temperature=0.7,  # of rollouts
        kl_coef=0.1,  # weight of the KL penalty (nats) in the rewards
        baseline="critic",  # or critic_with_answer; samples > 1: leave_one_out, same_answer, counterfactual, group_mean
        stop_penalty=False,  # a response without end-of-sequence scores -1 whatever it says
        eval_every=20,  # 0: only after the last step
        save_every=20,  # 0: only after the last step
        keep=2,  # checkpoints to resume from
        num_validation=1000,  # 0: no evaluation
        num_candidates=5,  # policies with the best validation rewards to keep for selection (launch/select.sh)
        first_candidate=800,  # from this step on
        max_ratio_deviation=0.0,  # mean |ratio - 1| before a rollout's first update; 0: rl/consistency.py
        max_sampling_gap=0.0,  # nats, mean; sampling against scoring; 0: rl/consistency.py
    )
    config.kl = dict(
        kind="fixed",  # or "adaptive": the coefficient changes until the KL divergence is `target`
        target=6.0,  # nats a response
        k_beta=0.1,  # how fast it changes
    )
    published = config.get_ref("published")  # a reference, so that --config.published=true reaches what follows from it
    config.ppo.clean_up = published.identity()  # no space before punctuation in what the reader is shown
    config.advantage = dict(
        gamma=1.0,  # discount of later rewards
        lam=1.0,  # lambda of generalised advantage estimation
        whiten_rewards=True,  # scales rewards to unit variance
        whiten_groups=1 + 7 * published.to_int(),  # 8 = by device, as published
        whiten_advantages=True,  # to mean 0 and variance 1
        group_std=False,  # divides a score by its group's standard deviation, as GRPO does; breaks calibration
        tokens="all",  # that a score trains; "confidence" freezes answers, "decoupled" gives each its own part
        kl="k1",  # estimator of the KL penalty in rewards; or "k2", "k3", biased; "": none here, see loss.kl
        clamp_kl=published.identity(),  # a token's KL penalty is never negative
        masked=published ^ True,  # False: statistics over padding too
    )
    config.loss = dict(
        clip_ratio=0.2,  # of new to old probabilities, around 1
        clip_value=0.2,  # of new values, around the old ones
        value_coefficient=0.1,  # weight of the critic's loss
        average="tokens",  # or "responses" (GRPO), or "constant" (Dr. GRPO): a sum over tokens divided by `length`
        length=config.ppo.get_ref("response_length"),  # tokens
        kl="",  # estimator of a KL penalty in the loss, with advantage.kl="": "k2"; or "k1", "k3", biased
        masked=published ^ True,  # False: means over padding too
    )
    config.alarms = dict(
        max_kl=50.0,  # nats a response
        min_entropy=0.01,  # nats a token
        min_stop_rate=0.5,  # fraction of responses with an end-of-sequence
        max_same_confidence=0.95,  # fraction of answers with the same probability
        max_no_answer_rate=0.9,  # fraction of paragraphs without an answer
        stop=False,  # True: an alarm ends the run
    )
    config.reader = _reader(published)
    return config


def miniature_ppo(config: ConfigDict) -> None:
    """Sets the sizes of PPO in the miniature world: more samples a question, cheaper KL and a larger learning rate."""
    config.questions, config.validation = questions("ppo", mini=True), questions("ppo_validation", mini=True)
    _follow_questions(config)
    config.ppo.update(
        num_steps=60,
        rollout_batch_size=256,
        num_samples=8,
        minibatch_size=64,
        microbatch_size=16,
        decode_batch_size=256,
        query_length=32,
        response_length=32,
        baseline="leave_one_out",
        eval_every=20,
        save_every=20,
        num_validation=100,
        num_candidates=0,
        kl_coef=0.02,
    )
    config.reader.update(max_new_tokens=24, max_answers=4, max_length=160, batch_size=256)
    config.optimizer.learning_rate = 1e-4
