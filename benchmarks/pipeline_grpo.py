"""Fine-tuning, then GRPO with a verifier: from a model that can hardly add to one that can.

python -m benchmarks.pipeline_grpo --seeds 3 --write
python -m benchmarks.pipeline_grpo --model SmolLM2-135M-Instruct.Q4_1.gguf --adapters 8 --small
"""

from __future__ import annotations

from typing import Any

import jax

import jaxrl
from benchmarks import pipeline
from jaxrl import llm, optim
from jaxrl.llm import tasks

METRICS = ("reward/mean", "reference/kl_k3", "policy/entropy")


def main() -> None:
    options = pipeline.arguments(__doc__).parse_args()
    sums = tasks.Addition(digits=2, backwards=True)
    setting, clock = pipeline.Setting(options, sums), pipeline.Clock()
    real = setting.start is not None
    steps, updates = (20, 1500) if not real else (20, 20)
    if options.small:
        steps, updates = (40, 5) if not real else (2, 2)
    sft = llm.SFT(
        setting.network,
        lr=1e-3 if not real else 1e-5,
        batch_size=128 if not real else 8,
        optimizer=llm.AdamW(b2=0.99),
        lora=setting.lora,
    )
    grpo = llm.GRPO(
        setting.network,
        lr=5e-4 if not real else 1e-5,
        prompts=32 if not real else 4,
        group=16 if not real else 4,
        minibatches=4,
        # With the same step size to the end it stays where one answer in three is wrong.
        optimizer=llm.AdamW(b2=0.99, anneal=optim.linear),
        lora=setting.lora,
    )
    data = setting.supervised(20_000 if not real else 256)
    stages: dict[str, list[float]] = {}
    if real:
        stages["before"] = []
    stages |= {"fine-tuned": [], "GRPO": []}
    runs: list[Any] = []
    for seed in range(options.seeds):
        key = jax.random.key(seed)
        if real:
            begun = jaxrl.fit(sft, data, key, steps=1, start=setting.start)
            stages["before"].append(setting.exact(begun))
        tuned = jaxrl.fit(sft, data, key, steps=steps, start=setting.start)
        if not real and not options.small:
            tuned = setting.until_an_eighth(sft, data, key, tuned, steps)
        stages["fine-tuned"].append(setting.exact(tuned))
        clock.say(f"seed {seed}: fine-tuned, {stages['fine-tuned'][-1]:.1%} right")
        count = updates * grpo.num_envs
        run = jaxrl.train(grpo, setting.task, key, steps=count, start=tuned, progress=True)
        stages["GRPO"].append(setting.exact(run))
        clock.say(f"seed {seed}: after GRPO, {stages['GRPO'][-1]:.1%} right")
        runs.append(run)
    pipeline.table(stages, "right answers, mean over seeds with 95 % interval")
    last = {name: [float(run.metrics[name][-1]) for run in runs] for name in METRICS}
    for name, values in last.items():
        print(f"{name} at the end: " + "  ".join(f"{v:.3f}" for v in values))
    if options.write:
        curves = {n: [run.metrics[n].tolist() for run in runs] for n in METRICS}
        result = {"right": stages, "at_the_end": last, "curves": curves}
        pipeline.keep("pipeline_grpo", result, runs, METRICS)


if __name__ == "__main__":
    main()
