"""Pretraining, fine-tuning, then in turns a reward model from preferences and PPO against it.

    python -m benchmarks.pipeline_ppo --seeds 3 --write
    python -m benchmarks.pipeline_ppo --model SmolLM2-135M-Instruct.Q4_1.gguf --adapters 8 --small

A word is to be answered with the same word reversed. The texts of the pretraining hold words that
are followed by themselves, sorted or, the fewest, reversed: afterwards the model can do all three
and does not know which is wanted. A few examples hardly tell it. Then nobody shows it what is right
any more: it sees the scores of a reward model, taught by pairs of its own answers of which one was
preferred, the better one mostly. What it says then is compared again, until it is nearly always
right. A real checkpoint has been pretrained, and the pairs are right and wrong sums.
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

METRICS = (
    "reward/mean", "measure/gold", "reference/kl_answer", "policy/entropy",
    "value/explained_variance",
)  # fmt: skip


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


def corpus(task: tasks.Reverse, key: Any, count: int) -> jaxrl.Dataset:
    """Words followed by themselves, sorted or reversed, as 3 to 3 to 1."""
    sizes = {"length": task.length, "shortest": task.shortest}
    kinds = [tasks.Copy(**sizes)] * 3 + [tasks.Sort(**sizes)] * 3 + [task]
    texts = [
        examples.written(kind, jax.random.fold_in(key, n), count // len(kinds))
        for n, kind in enumerate(kinds)
    ]
    arrays: Any = jax.tree.map(lambda *x: np.concatenate(x), *(dict(x.arrays) for x in texts))
    return examples.of_task(texts[0], arrays | {"mask": arrays["segments"] > 0})  # all of it counts


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of everything."""

    pretraining: int = 1200
    tuning: int = 2
    rating: int = 500
    pairs: int = 20_000
    updates: int = 60
    rounds: int = 5  # at most, of reward model and PPO
    enough: float = 0.95  # share of right answers after which nobody is asked again


def plan(options: Any) -> Plan:
    if options.model is not None:
        few = Plan(pretraining=0, tuning=20, rating=20, pairs=256, updates=20, rounds=1)
        return dataclasses.replace(few, tuning=2, rating=2, updates=2) if options.small else few
    return Plan(20, 2, 20, 2_000, 4, 2) if options.small else Plan()


@dataclasses.dataclass(frozen=True)
class Learners:
    """What learns from texts, from examples, from preferences and from scores."""

    pretraining: llm.SFT
    tuning: llm.SFT
    judge: llm.RewardModel
    ppo: llm.PPO


def learners(setting: pipeline.Setting) -> Learners:
    real, lora = setting.start is not None, setting.lora
    adam = llm.AdamW(b2=0.99)
    annealed = dataclasses.replace(adam, anneal=optim.linear)
    warmed = dataclasses.replace(annealed, warmup=0.05)
    size = 8 if real else 128
    return Learners(
        pretraining=llm.SFT(setting.network, lr=2e-3, batch_size=size, optimizer=warmed),
        tuning=llm.SFT(
            setting.network,
            lr=1e-5 if real else 1e-4,
            batch_size=size,
            optimizer=adam,
            lora=lora,
        ),
        judge=llm.RewardModel(
            setting.network,
            lr=1e-5 if real else 1e-3,
            batch_size=size,
            centring=0.01,
            optimizer=warmed,
            lora=lora,
        ),
        ppo=llm.PPO(
            setting.network,
            lr=1e-6 if real else 5e-4,
            critic_lr=1e-5 if real else 1e-3,
            prompts=8 if real else 256,
            epochs=2,
            minibatches=2,
            reward_kl=0.05,
            optimizer=annealed,
            lora=lora,
        ),
    )


@dataclasses.dataclass
class Found:
    """Of one seed: right answers after each stage and after each round of PPO, the share of pairs
    that the reward model orders as people did, and the last run."""

    right: dict[str, float]
    rounds: list[float]
    judged: list[float]
    run: Any = None


class Pipeline:
    def __init__(self, options: Any) -> None:
        self.plan = plan(options)
        self.setting = pipeline.Setting(options, tasks.Reverse(length=5, shortest=3))
        self.learners = learners(self.setting)
        self.clock = pipeline.Clock()
        # One function for all rounds: another would be another program.
        self.reward = partial(rate, self.setting.network)

    def seed(self, seed: int) -> Found:
        """All stages."""
        found, key = Found({}, [], []), jax.random.key(seed)
        policy = self.imitated(key, found).state
        self.clock.say(f"seed {seed}: fine-tuned, {found.right['fine-tuned']:.1%} right")
        score = policy.params
        for number in range(self.plan.rounds):
            key = jax.random.fold_in(key, number)
            score = self.judged(policy, score, key, 100 * seed + number, found)
            policy = self.reinforced(policy, score, key, found)
            first, last = (float(found.run.metrics["reward/mean"][i]) for i in (0, -1))
            self.clock.say(
                f"seed {seed}: {found.judged[-1]:.1%} of pairs as preferred; after PPO "
                f"{found.rounds[-1]:.1%} right, the score went from {first:.2f} to {last:.2f}"
            )
            if found.rounds[-1] >= self.plan.enough:
                break
        found.right["PPO"] = found.rounds[-1]
        return found

    def imitated(self, key: Any, found: Found) -> jaxrl.Result:
        """Pretraining on texts, then fine-tuning on answers."""
        setting, start = self.setting, self.setting.start
        if start is None:
            texts = corpus(setting.task, jax.random.key(1000), 40_000)
            steps = self.plan.pretraining
            start = jaxrl.fit(self.learners.pretraining, texts, key, steps=steps)
            found.right["pretrained"] = setting.exact(start)
        data = setting.supervised(20_000 if setting.start is None else 256)
        steps, key = self.plan.tuning, jax.random.fold_in(key, 99)
        tuned = jaxrl.fit(self.learners.tuning, data, key, steps=steps, start=start)
        found.right["fine-tuned"] = setting.exact(tuned)
        return tuned

    def judged(self, policy: Any, score: Any, key: Any, seed: int, found: Found) -> Any:
        """A reward model that has seen pairs of what the policy says now: of what it never says
        people have told nothing."""
        pairs = preferences(self.setting, policy, self.plan.pairs, seed)
        rated = jaxrl.fit(self.learners.judge, pairs, key, steps=self.plan.rating, start=score)
        found.judged.append(float(np.asarray(rated.metrics["reward/accuracy"])[-5:].mean()))
        return rated.state.params

    def reinforced(self, policy: Any, score: Any, key: Any, found: Found) -> Any:
        ppo, start = self.learners.ppo, {"policy": policy, "critic": score}
        task = tasks.Scored(self.setting.task, self.reward, score)
        steps = self.plan.updates * ppo.num_envs
        found.run = jaxrl.train(ppo, task, key, steps=steps, start=start, progress=True)
        found.rounds.append(self.setting.exact(found.run))
        return found.run.state


def main() -> None:
    options = pipeline.arguments(__doc__).parse_args()
    stages = Pipeline(options)
    found = [stages.seed(seed) for seed in range(options.seeds)]
    right = {name: [one.right[name] for one in found] for name in found[0].right}
    pipeline.table(right, "right answers, mean over seeds with 95 % interval")
    runs = [one.run for one in found]
    last = {name: [float(run.metrics[name][-1]) for run in runs] for name in METRICS}
    for name, values in last.items():
        print(f"{name} at the end: " + "  ".join(f"{v:.3f}" for v in values))
    if options.write:
        result = {
            "right": right,
            "reward_model": [one.judged for one in found],
            "rounds": [one.rounds for one in found],
            "at_the_end": last,
            "curves": {n: [run.metrics[n].tolist() for run in runs] for n in METRICS},
        }
        pipeline.keep("pipeline_ppo", result, runs, METRICS)


if __name__ == "__main__":
    main()
