"""Pretraining, fine-tuning, then in turns a reward model from preferences and PPO against it.

    python -m benchmarks.pipeline_ppo --seeds 3 --write
    python -m benchmarks.pipeline_ppo --model SmolLM2-135M-Instruct.Q4_1.gguf --adapters 8 --small

Nobody tells the policy which answers are right: it sees the scores of a reward model, taught by
pairs of its own answers of which one was preferred, the better one mostly. What it says then is
compared again, and so on. A real checkpoint has been pretrained, and the pairs are right and wrong
sums.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

import jaxrl
from benchmarks import pipeline
from jaxrl import llm, optim
from jaxrl.llm import answers, examples, tasks
from jaxrl.llm.reward import rate
from jaxrl.types import Spec

METRICS = ("reward/mean", "reference/kl_answer", "policy/entropy", "value/explained_variance")


@partial(jax.jit, static_argnames=("network", "count"))
def compared(network: llm.Transformer, task: Any, params: Any, key: Any, count: int) -> Any:
    """Two answers of the model to each of `count` questions, and which of them was preferred: by
    someone who sees how many letters stand at the right places, and errs now and then."""
    ask, one, two, label = jax.random.split(key, 4)
    questions = jax.vmap(task.write)(jax.random.split(ask, count))
    spec = Spec(task.obs_space, task.action_space)
    sampling = llm.Sampling(temperature=1.2)

    def gold(question: Any, answer: Any) -> Any:
        asked = question.answer != tasks.PAD
        return 30.0 * ((answer == question.answer) & asked).sum() / asked.sum()

    drawn = [
        answers.draw(network, params, spec, questions.prompt, k, sampling, 1).action
        for k in (one, two)
    ]
    scores = [jax.vmap(gold)(questions, answer) for answer in drawn]
    return tasks.prefer(label, questions.prompt, *drawn, *scores)


def preferences(setting: pipeline.Setting, policy: Any, count: int, seed: int) -> Any:
    if setting.start is None:
        key, params = jax.random.key(2000 + seed), policy.params
        pairs = compared(setting.network, setting.task, params, key, count)
        told = np.asarray(pairs.margin) != 0  # of two that are as good nothing can be learned
        return examples.preferred(jax.tree.map(lambda x: np.asarray(x)[told], pairs))
    random = np.random.default_rng(seed)
    chosen = random.choice(len(setting.numbers), count)
    sums = setting.numbers[chosen].sum(1)
    wrong = sums + random.choice([-10, -2, -1, 1, 2, 10], count)
    prompts = [
        setting.tokenizer.chat(
            [{"role": "user", "content": pipeline.question(*setting.numbers[i])}]
        )
        for i in chosen
    ]
    good, bad = ([setting.tokenizer.encode(str(n)) for n in side] for side in (sums, wrong))
    room = max(len(p) for p in prompts) + 8
    return examples.preferences(prompts, good, bad, room=room, eos=setting.network.config.eos[0])


def everything(data: jaxrl.Dataset) -> jaxrl.Dataset:
    """All tokens count, those of the questions too."""
    arrays: Any = dict(data.arrays)
    return examples.of_task(data, arrays | {"mask": arrays["segments"] > 0})


def main() -> None:
    options = pipeline.arguments(__doc__).parse_args()
    words = tasks.Reverse(length=5, shortest=3)
    setting, clock = pipeline.Setting(options, words), pipeline.Clock()
    real = setting.start is not None
    pretraining, tuning, rating, updates = (40, 10, 2000, 200) if not real else (0, 20, 20, 20)
    rounds = 4 if not real else 1
    if options.small:
        rounds = 2
        pretraining, tuning, rating, updates = (20, 10, 20, 4) if not real else (0, 2, 2, 2)
    adam, annealed = llm.AdamW(b2=0.99), llm.AdamW(b2=0.99, anneal=optim.linear)
    sft = llm.SFT(
        setting.network,
        lr=1e-3 if not real else 1e-5,
        batch_size=128 if not real else 8,
        optimizer=adam,
        lora=setting.lora,
    )
    judge = llm.RewardModel(
        setting.network,
        lr=3e-3 if not real else 1e-5,
        batch_size=128 if not real else 8,
        centring=0.01,
        optimizer=dataclasses.replace(annealed, warmup=0.05),
        lora=setting.lora,
    )
    ppo = llm.PPO(
        setting.network,
        lr=5e-4 if not real else 1e-6,
        critic_lr=1e-3 if not real else 1e-5,
        prompts=256 if not real else 8,
        epochs=2,
        minibatches=2,
        reward_kl=0.1,
        optimizer=annealed,
        lora=setting.lora,
    )
    reward = partial(rate, setting.network)  # one function: another would be another program
    data = setting.supervised(20_000 if not real else 256)
    begun = [] if real else ["pretrained"]
    stages: dict[str, list[float]] = {name: [] for name in (*begun, "fine-tuned", "PPO")}
    judged: list[list[float]] = []  # of each seed, after each round
    rights: list[list[float]] = []
    runs: list[Any] = []
    for seed in range(options.seeds):
        key = jax.random.key(seed)
        judged.append([])
        rights.append([])
        start = setting.start
        if pretraining:
            start = jaxrl.fit(sft, everything(data), key, steps=pretraining)
            stages["pretrained"].append(setting.exact(start))
        tuned = jaxrl.fit(sft, data, jax.random.fold_in(key, 99), steps=tuning, start=start)
        if not real and not options.small:
            tuned = setting.until_an_eighth(sft, data, key, tuned, tuning)
        stages["fine-tuned"].append(setting.exact(tuned))
        clock.say(f"seed {seed}: fine-tuned, {stages['fine-tuned'][-1]:.1%} right")
        policy, judged_by = tuned.state, tuned.state.params
        for number in range(rounds):
            key = jax.random.fold_in(key, number)
            # People compare what the policy says now: of what it never says they have told nothing.
            pairs = preferences(setting, policy, 40_000 if not real else 256, 100 * seed + number)
            rated = jaxrl.fit(judge, pairs, key, steps=rating, start=judged_by)
            judged_by = rated.state.params
            judged[-1].append(float(np.asarray(rated.metrics["reward/accuracy"])[-5:].mean()))
            clock.say(f"seed {seed}: reward model, {judged[-1][-1]:.1%} of pairs as preferred")
            task = tasks.Scored(setting.task, reward, judged_by)
            begin = {"policy": policy, "critic": judged_by}
            count = updates * ppo.num_envs
            run = jaxrl.train(ppo, task, key, steps=count, start=begin, progress=True)
            policy, score = run.state, run.metrics["reward/mean"]
            rights[-1].append(setting.exact(run))
            clock.say(
                f"seed {seed}: after PPO, {rights[-1][-1]:.1%} right; the reward model's score "
                f"went from {float(score[0]):.2f} to {float(score[-1]):.2f}"
            )
        stages["PPO"].append(rights[-1][-1])
        runs.append(run)
    pipeline.table(stages, "right answers, mean over seeds with 95 % interval")
    last = {name: [float(run.metrics[name][-1]) for run in runs] for name in METRICS}
    for name, values in last.items():
        print(f"{name} at the end: " + "  ".join(f"{v:.3f}" for v in values))
    if options.write:
        curves = {n: [run.metrics[n].tolist() for run in runs] for n in METRICS}
        result = {
            "right": stages,
            "reward_model": judged,
            "rounds": rights,
            "at_the_end": last,
            "curves": curves,
        }
        pipeline.keep("pipeline_ppo", result, runs, METRICS)


if __name__ == "__main__":
    main()
