"""PPO on CartPole over several seeds: `make demo`, or python examples/demo.py --help."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description="Train PPO on CartPole over several seeds.")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200_000, help="environment steps per seed")
    parser.add_argument("--episodes", type=int, default=128, help="per seed, in the evaluation")
    parser.add_argument("--picture", default="cartpole.png")
    args = parser.parse_args()

    import jax  # only now: --help should not wait for it
    from rich.console import Console
    from rich.table import Table

    import jaxrl
    from jaxrl import cache

    cache.enable()
    env = jaxrl.envs.make(args.env)
    keys = jax.random.split(jax.random.key(0), args.seeds)
    runs = jaxrl.train(jaxrl.PPO(), env, keys, steps=args.steps, progress=True)
    score = jaxrl.evaluate(runs, env, episodes=args.episodes)

    table = Table()
    for column in ("seed", "mean return", "worst", "best"):
        table.add_column(column, justify="right")
    for seed, returns in enumerate(score.returns):
        numbers = (returns.mean(), returns.min(), returns.max())
        table.add_row(str(seed), *(f"{x:.1f}" for x in numbers))
    low, high = score.interval
    table.add_section()
    table.add_row("IQM", f"{score.iqm:.1f}", f"{low:.1f}", f"{high:.1f}")
    print(f"\nPPO on {args.env}, {args.steps:,} steps per seed:")
    Console().print(table)
    print(
        f"{args.episodes} episodes per seed, without exploration. IQM: interquartile mean over the "
        f"seeds, with its 95 % interval.\nCompiled in {runs.compile_seconds:.1f} s, then "
        f"{runs.steps_per_second:,.0f} steps/s over all seeds."
    )
    runs.plot(args.picture)
    print(f"Learning curve: {args.picture}")


if __name__ == "__main__":
    main()
