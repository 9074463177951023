"""Tokens per second of `jaxrl.llm.Generator` against `generate` of transformers.

    python -m benchmarks.generation                              # both models, batches 1, 16 and 64
    python -m benchmarks.generation --models tiny --batches 1 --new 16 --rounds 1
    python -m benchmarks.generation --refill                     # slots against whole batches

Both sides load the same random Llama from the same folder and sample at temperature 1 from the same
prompts, each completion to its full length, with a cache of keys and values. They wait in processes
of their own and take turns; transformers with one and with two threads, and its best counts.

--refill: completions whose lengths have a long tail (every token is the last with the same small
probability), as batches that wait for their longest row and with finished slots refilled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import stamp
from benchmarks.race import ROOT

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = {
    "tiny": dict(vocab=1024, width=64, layers=2, heads=4, hidden=172),
    "small": dict(vocab=8192, width=384, layers=6, heads=6, hidden=1024),
}
PROMPT = 32
SIDES = ("jaxrl", "transformers, 1 thread", "transformers, 2 threads")

Run = Callable[[], None]


# ----------------------------------------------------------------------- inside the processes


def prompts(vocab: int, batch: int) -> list[list[int]]:
    import random

    draw = random.Random(batch)
    return [[draw.randrange(3, vocab) for _ in range(PROMPT)] for _ in range(batch)]


def own(folder: Path, batch: int, new: int) -> Run:
    import jax

    from jaxrl import llm

    lm = llm.load(folder)
    generator = llm.Generator(lm.network, max_new=new, stop=(), lengths=(PROMPT,), batches=(batch,))
    texts, keys = prompts(lm.config.vocab, batch), iter(jax.random.split(jax.random.key(0), 10_000))

    def run() -> None:
        out = generator(lm.params, texts, next(keys))
        assert out.mask.all() and out.tokens.shape == (batch, new)

    return run


def theirs(folder: Path, batch: int, new: int) -> Run:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = torch.tensor(prompts(model.config.vocab_size, batch))
    real = torch.ones_like(texts)

    def run() -> None:
        with torch.inference_mode():
            out = model.generate(
                texts, attention_mask=real, max_new_tokens=new, min_new_tokens=new, do_sample=True,
                top_k=0, top_p=1.0, temperature=1.0, use_cache=True, pad_token_id=0,
            )  # fmt: skip
        assert out.shape == (batch, PROMPT + new)

    return run


def make(folder: Path) -> None:
    """The models, as folders that both sides read."""
    import jax
    import jax.numpy as jnp

    from jaxrl import llm

    for name, sizes in MODELS.items():
        rope = llm.Rope(dims=sizes["width"] // sizes["heads"])
        network = llm.Transformer(llm.Config(**sizes, rope=rope, max_positions=512))
        tokens = jnp.zeros((1, 2), jnp.int32)
        params = jax.jit(network.init)(jax.random.key(0), tokens)["params"]
        llm.save(llm.LanguageModel(params, network), folder / name)


def serve(side: str, folder: Path) -> None:
    """Answers each line {"model", "batch", "new", "threads"} with seconds; the first call of a
    combination prepares it and answers with the seconds of that."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ready: dict[tuple[str, int, int], Run] = {}
    for line in sys.stdin:
        ask = json.loads(line)
        which = (ask["model"], ask["batch"], ask["new"])
        if side == "transformers":
            import torch

            torch.set_num_threads(ask["threads"])
        if which not in ready:
            ready[which] = (own if side == "jaxrl" else theirs)(folder / which[0], *which[1:])
        ready[which]()  # a process that waited for long begins slowly
        began = time.perf_counter()
        ready[which]()
        out.write(json.dumps(time.perf_counter() - began) + "\n")
        out.flush()
    os._exit(0)


# ---------------------------------------------------------------------------------- the comparison


class Side:
    def __init__(self, name: str, folder: Path) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by `stop`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.generation", "--serve", name, str(folder)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip

    def ask(self, **what: Any) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
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


def compare(models: list[str], batches: list[int], new: int, rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.generation", "--make", name], cwd=ROOT, check=True
        )
        sides: dict[str, Side] = {}
        for side in ("jaxrl", "transformers"):
            sides[side] = Side(side, Path(name))
            stack.callback(sides[side].stop)
        for model in models:
            for batch in batches:
                row = measure(sides, dict(model=model, batch=batch, new=new), rounds)
                print(table([row]).splitlines()[-1], flush=True)
                rows.append(row)
    return rows


def measure(sides: dict[str, Side], what: dict[str, Any], rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    first = {}
    for name in SIDES:
        side, threads = name.split(",")[0], 2 if "2" in name else 1
        first[name] = sides[side].ask(**what, threads=threads)
    for number in range(rounds):  # back and forth: a drift of the machine favours no side
        for name in SIDES if number % 2 == 0 else SIDES[::-1]:
            side, threads = name.split(",")[0], 2 if "2" in name else 1
            seconds[name].append(sides[side].ask(**what, threads=threads))
    tokens = what["batch"] * what["new"]
    rates = {name: tokens / statistics.median(each) for name, each in seconds.items()}
    best = max(rate for name, rate in rates.items() if name != "jaxrl")
    warm = statistics.median(seconds["jaxrl"])
    return {
        **what,
        "prompt": PROMPT,
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "seconds": seconds,
        "compile_seconds": round(first["jaxrl"] - warm, 2),
        "ratio": round(rates["jaxrl"] / best, 2),
    }


def refill(model: str, slots: int, total: int, new: int, mean: int, rounds: int) -> dict[str, Any]:
    """Both sides in this process, in turns; the same number of rows at a time."""
    import jax
    import numpy as np

    from jaxrl import llm

    with tempfile.TemporaryDirectory() as name:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.generation", "--make", name], cwd=ROOT, check=True
        )
        lm = llm.load(Path(name) / model)
    vocab = lm.config.vocab
    stop = tuple(range(vocab // mean))  # random weights: every token is about as likely
    fixed = dict(max_new=new, stop=stop, lengths=(PROMPT,))
    whole = llm.Generator(lm.network, batches=(slots,), **fixed)  # pyright: ignore
    queue = llm.Generator(lm.network, batches=(total,), slots=slots, **fixed)  # pyright: ignore
    texts = prompts(vocab, total)
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    def in_batches() -> tuple[int, int]:
        outs = [whole(lm.params, texts[n : n + slots], next(keys)) for n in range(0, total, slots)]
        return sum(int(o.mask.sum()) for o in outs), sum(int(o.steps) for o in outs)

    def refilled() -> tuple[int, int]:
        out = queue(lm.params, texts, next(keys))
        return int(out.mask.sum()), int(out.steps)

    sides = {"batches": in_batches, "refilled": refilled}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    passes: dict[str, list[int]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items() if number % 2 else reversed(sides.items()):
            began = time.perf_counter()
            tokens, steps = run()
            if number:
                rates[name].append(tokens / (time.perf_counter() - began))
                passes[name].append(steps)
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "model": model, "slots": slots, "completions": total, "prompt": PROMPT, "max_new": new,
        "mean_length": mean, "tokens_per_second": medians, "rates": rates,
        "passes": {name: float(np.mean(each)) for name, each in passes.items()},
        "compilations": queue.compilations, "gain": medians["refilled"] / medians["batches"],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    names = [f"{name} (tok/s)" for name in SIDES]
    lines = [
        f"| model | batch | {' | '.join(names)} | times the best | compile s |",
        "|---" * (len(names) + 4) + "|",
    ]
    for row in rows:
        rates = " | ".join(f"{row['tokens_per_second'][name]:,.0f}" for name in SIDES)
        lines.append(
            f"| {row['model']} | {row['batch']} | {rates} | {row['ratio']:.2f} | "
            f"{row['compile_seconds']:.1f} |"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.generation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--new", type=int, default=96, help="tokens of each completion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--refill", action="store_true")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--total", type=int, default=128, help="completions of --refill")
    parser.add_argument("--mean", type=int, default=32, help="length, of --refill")
    parser.add_argument("--out", help="files in benchmarks/results/")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.make:
        return make(Path(args.make))
    if args.serve:
        return serve(args.serve[0], Path(args.serve[1]))
    stamped = stamp.stamp("benchmarks.generation", models=MODELS)
    stamped["versions"]["transformers"] = stamp.importlib.metadata.version("transformers")
    if args.refill:
        rows = [
            refill(model, args.slots, args.total, 8 * args.mean, args.mean, args.rounds)
            for model in args.models
        ]
        text = json.dumps(
            [{k: v for k, v in row.items() if k != "rates"} for row in rows], indent=1
        )
        text = f"```\n{text}\n```"
    else:
        rows = compare(args.models, args.batches, args.new, args.rounds)
        text = table(rows)
    stamped["load_after"] = stamp.load()
    print(text)
    RESULTS.mkdir(exist_ok=True)
    out = args.out or ("generation-refill" if args.refill else "generation")
    data = {"stamp": stamped, "rows": rows}
    (RESULTS / f"{out}.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / f"{out}.md").write_text(f"{stamp.line(stamped)}\n\n{text}\n")


if __name__ == "__main__":
    main()
