"""Whole GRPO and DPO steps of jaxrl against those of TRL's trainers, in tokens per second.

    python -m benchmarks.trl grpo dpo --write
    python -m benchmarks.trl grpo --models tiny --rounds 1 --scale 0.2

Both sides train the same random Llama, read from the same folder, on prompts and answers of the
same lengths, with Adam, clipped gradients and the same rewards: `jaxrl.train` and `jaxrl.fit`, and
`GRPOTrainer.train` and `DPOTrainer.train`. Every side waits in a process of its own, and they take
turns; TRL with one and with two threads of PyTorch, and the better one counts. What a side does at
the beginning of its turn does not count: it has slept, and its memory with it. A GRPO step draws
the answers, scores them and takes one gradient step; its tokens are those of the answers. A DPO
step goes through both answers with the policy and with the reference; its tokens are all of these,
counted once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import stamp

RESULTS = Path(__file__).resolve().parent / "results"
MODELS: dict[str, dict[str, int]] = {
    "tiny": dict(vocab=64, width=64, layers=2, heads=4, hidden=172),
    "small": dict(vocab=1024, width=256, layers=4, heads=4, hidden=688),
}
METHODS = ("grpo", "dpo")
SIDES = ("jaxrl", "TRL, 1 thread", "TRL, 2 threads")
PROMPT, ANSWER = 16, 32
"""Tokens, the same in every row"""
PROMPTS, GROUP, PAIRS = 8, 8, 32
STEPS = {("grpo", "tiny"): 48, ("grpo", "small"): 12, ("dpo", "tiny"): 96, ("dpo", "small"): 24}
"""Of a measurement"""
PATIENCE = 5.0
"""Seconds after which TRL does not begin another step of a measurement"""
LR, EXAMPLES = 1e-5, 256
PAD, END = 0, 1

Say = Callable[..., None]
Hear = Callable[[], dict[str, Any]]


def tokens_per_step(method: str) -> int:
    return PROMPTS * GROUP * ANSWER if method == "grpo" else 2 * PAIRS * (PROMPT + ANSWER)


def texts(vocab: int, length: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(2, vocab) for _ in range(length)] for _ in range(EXAMPLES)]


# -------------------------------------------------------------------------------------- jaxrl


def make(folder: Path) -> None:
    """The models, as folders that both sides read."""
    import jax
    import jax.numpy as jnp

    from jaxrl import llm

    for name, sizes in MODELS.items():
        rope = llm.Rope(dims=sizes["width"] // sizes["heads"])
        config = llm.Config(**sizes, rope=rope, max_positions=128, pad=PAD)
        network = llm.Transformer(config)
        zero = jnp.zeros((1, 2), jnp.int32)
        params = jax.jit(network.init)(jax.random.key(0), zero)["params"]
        llm.save(llm.LanguageModel(params, network), folder / name)


def own(method: str, folder: Path, steps: int, say: Say, hear: Hear) -> None:
    """Every answer is a call of `jaxrl.train` or `jaxrl.fit`, from the beginning."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxrl
    from jaxrl import llm, spaces
    from jaxrl.llm import examples
    from jaxrl.llm.losses import grpo
    from jaxrl.struct import static, struct
    from jaxrl.types import Step

    lm = llm.load(folder)
    vocab = lm.config.vocab

    @struct
    class Even:
        """The reward is the share of even tokens."""

        vocab: int = static("")
        time_limit = 1

        @property
        def obs_space(self) -> spaces.Box:
            return spaces.Box(-1, self.vocab - 1, (PROMPT,), jnp.int32)

        @property
        def action_space(self) -> spaces.Box:
            return spaces.Box(-1, self.vocab - 1, (ANSWER,), jnp.int32)

        def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            prompt = jax.random.randint(key, (PROMPT,), 2, self.vocab)
            return prompt, prompt

        def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> Any:
            reward = (action % 2 == 0).mean()
            return state, Step(state, reward, jnp.array(True), jnp.array(False))

    if method == "grpo":
        agent: Any = llm.GRPO(
            lm.network, lr=LR, prompts=PROMPTS, group=GROUP, loss=grpo.dapo(0.2, 0.2), watch=False
        )
        source: Any = Even(vocab=vocab)
        per_step, run = agent.num_envs, jaxrl.train
    else:
        agent = llm.DPO(lm.network, lr=LR, batch_size=PAIRS)
        asked = texts(vocab, PROMPT, 0)
        good, bad = (
            [[*words[:-1], END] for words in texts(vocab, ANSWER, seed)] for seed in (1, 2)
        )
        source = examples.preferences(asked, good, bad, room=PROMPT + ANSWER, eos=END)
        per_step, run = 1, jaxrl.fit
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    def train() -> Any:
        result = run(
            agent, source, next(keys), steps=steps * per_step, start=lm.params, progress=False
        )
        return jax.block_until_ready(result)

    say(compile_seconds=train().compile_seconds)
    while hear()["run"]:
        train()  # a process that waited for long begins slowly
        began = time.perf_counter()
        result = train()
        say(seconds=(time.perf_counter() - began) / steps)
        assert np.isfinite(np.asarray(result.metrics["loss/total"])).all()


# ---------------------------------------------------------------------------------------- TRL


def theirs(method: str, folder: Path, steps: int, say: Say, hear: Hear) -> None:
    """One call of `train`, which waits behind every answer until it is asked to go on."""
    import datasets  # pyright: ignore
    import tokenizers  # pyright: ignore
    import transformers  # pyright: ignore
    import trl  # pyright: ignore

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    vocab = model.config.vocab_size
    # Of GRPO every answer goes to its full length: the end token is one that the model lacks.
    end = END if method == "dpo" else vocab
    words = {f"w{n}": n for n in range(vocab) if n != end} | {"</s>": end}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="w0", eos_token="</s>", padding_side="left"
    )

    def written(rows: list[list[int]], end: str = "") -> list[str]:
        return [" " + " ".join(f"w{n}" for n in row) + end for row in rows]

    class Gate(transformers.TrainerCallback):
        """Behind the first step, and then behind every `steps` that count, it waits."""

        taken, began, asked = 0, 0.0, False

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.taken += 1
            seconds = time.perf_counter() - self.began
            if self.asked and self.began == 0.0:  # the first steps behind a pause do not count
                if self.taken > steps // 4:
                    self.taken, self.began = 0, time.perf_counter()
                return
            if self.asked and self.taken < steps and seconds < PATIENCE:
                return
            say(**({"seconds": seconds / self.taken} if self.asked else {"compile_seconds": 0.0}))
            control.should_training_stop = not hear()["run"]
            self.taken, self.began, self.asked = 0, 0.0, True

    asked = written(texts(vocab, PROMPT, 0))
    settings: dict[str, Any] = dict(
        output_dir=str(folder / "out"), use_cpu=True, bf16=False, report_to="none",
        learning_rate=LR, lr_scheduler_type="constant", max_grad_norm=1.0, max_steps=1_000_000,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
        gradient_accumulation_steps=1,
    )  # fmt: skip
    if method == "grpo":

        def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
            assert all(len(ids) == ANSWER for ids in completion_ids)
            return [sum(n % 2 == 0 for n in ids) / ANSWER for ids in completion_ids]

        trainer = trl.GRPOTrainer(
            model, even,
            trl.GRPOConfig(
                **settings, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
                max_completion_length=ANSWER, beta=0.0, loss_type="dapo", temperature=1.0,
                top_p=1.0, top_k=0,
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": asked}), processing_class=tokenizer,
        )  # fmt: skip
    else:
        good, bad = (
            written([row[:-1] for row in texts(vocab, ANSWER, seed)], " </s>") for seed in (1, 2)
        )
        rows = {"prompt": asked, "chosen": good, "rejected": bad}
        trainer = trl.DPOTrainer(
            model, args=trl.DPOConfig(**settings, per_device_train_batch_size=PAIRS),
            train_dataset=datasets.Dataset.from_dict(rows), processing_class=tokenizer,
        )  # fmt: skip
        first = trainer.train_dataset[0]
        assert len(first["prompt_ids"]) == PROMPT and len(first["chosen_ids"]) == ANSWER
    trainer.add_callback(Gate())
    trainer.train()


# ----------------------------------------------------------------------------- the comparison


def serve(side: str, folder: Path, threads: int) -> None:
    """{"method", "model", "steps"} prepares, {"run": true} measures, {"run": false} ends that."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is not an answer

    def say(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    def hear() -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        return json.loads(line)

    if side == "TRL":
        import torch  # pyright: ignore

        torch.set_num_threads(threads)
    while True:
        ask = hear()
        work = own if side == "jaxrl" else theirs
        work(ask["method"], folder / ask["model"], ask["steps"], say, hear)


class Side:
    def __init__(self, name: str, folder: Path) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by `stop`)
        threads = "2" if "2" in name else "1"
        extra = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.trl", "--serve", name.split(",")[0], str(folder),
             threads],
            cwd=stamp.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            text=True,
            env=os.environ | (extra if name != "jaxrl" else {}) | {
                "JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONWARNINGS": "ignore",
                "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"),
                "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
            },
        )  # fmt: skip

    def tell(self, **what: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(self.errors.read()[-2000:])
        return json.loads(line)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(BrokenPipeError):
                stream and stream.close()


def measure(sides: dict[str, Side], method: str, model: str, steps: int, rounds: int) -> Any:
    compile_seconds = 0.0
    for side in sides.values():
        side.tell(method=method, model=model, steps=steps)
        compile_seconds = max(compile_seconds, side.answer()["compile_seconds"])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):  # back and forth: a drift of the machine favours no side
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            sides[name].tell(run=True)
            seconds[name].append(sides[name].answer()["seconds"])
    for side in sides.values():
        side.tell(run=False)
    tokens = tokens_per_step(method)
    rates = {name: tokens / statistics.median(each) for name, each in seconds.items()}
    best = max(rate for name, rate in rates.items() if name != "jaxrl")
    return {
        "method": method,
        "model": model,
        "steps": steps,
        "tokens_per_step": tokens,
        "seconds_per_step": seconds,
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "compile_seconds": round(compile_seconds, 2),
        "ratio": round(rates["jaxrl"] / best, 2),
    }


def compare(
    methods: list[str], models: list[str], rounds: int, scale: float, keep: Callable[[Any], None]
) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.trl", "--make", name], cwd=stamp.ROOT, check=True
        )
        sides: dict[str, Side] = {}
        for side in SIDES:
            sides[side] = Side(side, Path(name))
            stack.callback(sides[side].stop)
        for method in methods:
            for model in models:
                steps = max(1, round(scale * STEPS[method, model]))
                row = measure(sides, method, model, steps, rounds)
                keep(row)


def table(rows: list[Any]) -> str:
    names = " | ".join(f"{name} (tok/s)" for name in SIDES)
    lines = [
        f"| step | model | {names} | times the best | compile s |",
        "|---" * (len(SIDES) + 4) + "|",
    ]
    for row in rows:
        rates = " | ".join(f"{row['tokens_per_second'][name]:,.0f}" for name in SIDES)
        lines.append(
            f"| {row['method'].upper()} | {row['model']} | {rates} | {row['ratio']:.2f} | "
            f"{row['compile_seconds']:.1f} |"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.trl", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("methods", nargs="*", default=list(METHODS), metavar="grpo|dpo")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="on the steps of a measurement")
    parser.add_argument("--write", action="store_true", help="to benchmarks/results/trl.json")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"no such steps: {', '.join(sorted(unknown))}; there are grpo and dpo")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.make:
        return make(Path(args.make))
    if args.serve:
        side, folder, threads = args.serve
        return serve(side, Path(folder), int(threads))
    stamped = stamp.stamp("benchmarks.trl", models=MODELS)
    for name in ("trl", "transformers"):
        stamped["versions"][name] = importlib.metadata.version(name)
    rows: list[Any] = []

    def keep(row: Any) -> None:
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
        stamped["load_after"] = stamp.load()
        if args.write:
            RESULTS.mkdir(exist_ok=True)
            data = {"stamp": stamped, "rows": rows}
            (RESULTS / "trl.json").write_text(json.dumps(data, indent=1) + "\n")
            (RESULTS / "trl.md").write_text(f"{stamp.line(stamped)}\n\n{table(rows)}\n")

    compare(args.methods, args.models, args.rounds, args.scale, keep)


if __name__ == "__main__":
    main()
