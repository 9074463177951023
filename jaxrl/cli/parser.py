"""The grammar of the command line. Nothing here imports JAX: help takes a few milliseconds."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxrl.cli import data

COMMANDS = {
    "train": "train an agent, or go on with a run that was interrupted",
    "resume": "continue the run in a folder",
    "eval": "play episodes with what was learned",
    "enjoy": "watch an episode, or film it",
    "sweep": "train every combination of some settings",
    "plot": "draw learning curves of one or several runs",
    "report": "write a page about a run: metrics, settings, circumstances",
    "export": "write what was learned to a file, for jaxrl or for others",
    "bench": "measure steps per second on this machine",
    "list": "what there is: agents, envs, presets, runs",
    "doctor": "what is installed, which devices are seen, what is slow and how to mend it",
}


class Parser(argparse.ArgumentParser):
    """One that knows what was probably meant."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")

    def inner(self, choice: str) -> Parser:
        """The parser of a command or an algorithm; itself where there is none."""
        for action in self._actions:
            if isinstance(action.choices, dict):
                return action.choices.get(choice, self)
        return self

    def flags(self) -> list[str]:
        return [s for a in self._actions for s in a.option_strings if s.startswith("--")]


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(100, _columns()))


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


# ------------------------------------------------------------------------------------- the pieces


def _positive(text: str) -> int:
    try:
        number = float(text.replace("_", "").replace(",", ""))  # 1e6 and 500_000 are meant
    except ValueError:
        number = 0.5
    if number != int(number) or number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return int(number)


def _default(field: dict[str, Any]) -> str:
    return f"{field['doc']} [{field['default']}]".replace("%", "%%")


def _agent_flags(parser: Parser, algorithm: str) -> None:
    group = parser.add_argument_group(f"{algorithm}: its fields, with the defaults of the class")
    metavars = {"number": "X", "integer": "N", "choice": "WHAT"}
    for field in data.algorithms()[algorithm]["fields"]:
        flag = "--" + field["name"].replace("_", "-")
        group.add_argument(
            flag,
            dest=f"field:{field['name']}",
            metavar=metavars[field["kind"]],
            default=argparse.SUPPRESS,
            help=_default(field),
        )


def _task_flags(parser: Parser) -> None:
    parser.add_argument("env", help="CartPole-v1, brax/ant ...; see `jaxrl list envs`")
    group = parser.add_argument_group("task")
    group.add_argument("--steps", "--total-timesteps", type=_positive, metavar="N",
                       help="environment steps per run [the preset's, or 500,000]")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers [0]")
    group.add_argument("--seeds", type=_positive, metavar="N",
                       help="that many independent runs at once [one]")  # fmt: skip
    group.add_argument("--env-option", action="append", default=[], metavar="NAME=VALUE",
                       help="a constant of the environment; may be repeated")  # fmt: skip
    group.add_argument("--flatten", action=argparse.BooleanOptionalAction,
                       help="show the agent its observations as vectors")  # fmt: skip
    group.add_argument("--normalize-obs", action=argparse.BooleanOptionalAction,
                       help="observations to zero mean and unit variance")  # fmt: skip
    group.add_argument("--normalize-reward", action=argparse.BooleanOptionalAction,
                       help="rewards divided by the spread of returns")  # fmt: skip
    group.add_argument("--no-preset", action="store_true",
                       help="the defaults of the class, not what was tuned")  # fmt: skip
    group.add_argument("--lanes", type=_positive, metavar="N",
                       help="runs that are advanced together on each device")  # fmt: skip
    group.add_argument("--precision", choices=("default", "high", "highest"),
                       help="of matrix products: highest is float32 on every device")  # fmt: skip


def _quiet_flag(parser: Parser) -> None:
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction,
                        help="show a line per second [only on a terminal]")  # fmt: skip


def _train(parser: Parser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--folder", metavar="DIR",
                       help="for the run [runs/ENV__ALGORITHM__SEED__TIME]")  # fmt: skip
    group.add_argument("--no-folder", action="store_true", help="write nothing")
    group.add_argument("--resume", action="store_true",
                       help="go on with the run in --folder if there is one")  # fmt: skip
    group.add_argument("--every", type=_positive, metavar="N",
                       help="steps between two checkpoints [a tenth of the run]")  # fmt: skip
    group.add_argument("--log-every", type=_positive, metavar="N",
                       help="steps between two points of the curves [a hundredth]")  # fmt: skip
    group.add_argument("--evaluate-every", type=_positive, metavar="N",
                       help="steps between two evaluations without exploration [none]")  # fmt: skip
    group.add_argument("--guard", action="store_true",
                       help="stop at the first infinite or NaN loss or parameter")  # fmt: skip
    group.add_argument("--tensorboard", action="store_true",
                       help="event files too, in tensorboard/ of the folder")  # fmt: skip
    group.add_argument("--wandb", metavar="PROJECT", help="Weights & Biases too")
    group.add_argument("--wandb-mode", choices=("online", "offline"), help="[online]")
    group.add_argument("--tags", choices=("cleanrl", "sb3", "own"), default="cleanrl",
                       help="names of metrics in both [cleanrl]")  # fmt: skip
    _quiet_flag(parser)


def _sweep(parser: Parser) -> None:
    group = parser.add_argument_group("the sweep")
    group.add_argument("--over", action="append", required=True, metavar="FIELD=A,B,C",
                       help="values of a field; repeat it for combinations")  # fmt: skip
    group.add_argument("--output", metavar="FILE.csv", help="scores of every setting and seed")
    group.add_argument("--metric", default="episode/return", metavar="NAME",
                       help="by which settings are ranked [episode/return]")  # fmt: skip
    _quiet_flag(parser)


def _bench(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="figures and hardware as JSON")


def _with_agents(parser: Parser, command: str, more: Any) -> None:
    """A parser for each algorithm, so that each has the flags of its own fields."""
    inner = parser.add_subparsers(
        dest="algorithm", metavar="ALGORITHM", required=True, parser_class=Parser
    )
    for name, about in data.algorithms().items():
        one = inner.add_parser(name, help=about["doc"], description=about["doc"])
        _task_flags(one)
        more(one)
        _agent_flags(one, name)
    parser.epilog = f"Flags of an algorithm: jaxrl {command} {next(iter(data.algorithms()))} --help"


def _resume(parser: Parser) -> None:
    parser.add_argument("folder")
    parser.add_argument("--steps", type=_positive, metavar="N", help="make the run longer")
    parser.add_argument("--newest-good", action="store_true",
                        help="pass over checkpoints that are damaged")  # fmt: skip
    _quiet_flag(parser)


def _eval(parser: Parser) -> None:
    parser.add_argument("folder")
    parser.add_argument("--step", default="newest", metavar="WHICH",
                        help='"newest", "best" or a number of steps [newest]')  # fmt: skip
    parser.add_argument("--episodes", type=_positive, default=128, metavar="N", help="[128]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="[0]")
    parser.add_argument("--json", action="store_true", help="every return, as JSON")


def _export(parser: Parser) -> None:
    parser.add_argument("folder")
    parser.add_argument("--format", choices=("policy", "jax", "onnx"), default="policy",
                        help="policy: for jaxrl.load_policy; jax: a jax.export program; "
                        "onnx [policy]")  # fmt: skip
    parser.add_argument("--output", metavar="FILE", required=True, help="to write to")
    parser.add_argument("--step", default="newest", metavar="WHICH",
                        help='"newest", "best" or a number of steps [newest]')  # fmt: skip
    parser.add_argument("--run", type=int, metavar="I",
                        help="which of several runs, from 0 [of one run: that one]")  # fmt: skip


def _plot(parser: Parser) -> None:
    parser.add_argument("folder", nargs="+", help="of runs, drawn together")
    parser.add_argument("--metric", default="episode/return", metavar="NAME",
                        help="[episode/return]")  # fmt: skip
    parser.add_argument("--fan", action="store_true",
                        help="every seed, in place of the band")  # fmt: skip
    parser.add_argument("--output", metavar="FILE",
                        help=".png, .pdf or .svg [curve.png in the first folder]")  # fmt: skip


def _enjoy(parser: Parser) -> None:
    parser.add_argument("folder")
    parser.add_argument("--step", default="newest", metavar="WHICH",
                        help='"newest", "best" or a number of steps [newest]')  # fmt: skip
    parser.add_argument("--run", type=int, default=0, metavar="N", help="which of several [0]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the episode [0]")
    parser.add_argument("--episodes", type=_positive, default=1, metavar="N", help="to watch [1]")
    parser.add_argument("--max-steps", type=_positive, default=1000, metavar="N",
                        help="of an episode that does not end [1000]")  # fmt: skip
    parser.add_argument("--fps", type=float, metavar="X",
                        help="steps shown per second [the environment's]")  # fmt: skip
    parser.add_argument("--explore", action="store_true", help="as in training")
    parser.add_argument("--where", choices=("window", "terminal"),
                        help="[a window if there is a display]")  # fmt: skip
    parser.add_argument("--output", metavar="FILE",
                        help="film one episode: .gif or .mp4; nothing is shown")  # fmt: skip


def _report(parser: Parser) -> None:
    parser.add_argument("folder")
    parser.add_argument("--output", metavar="FILE", help="[report.html in the folder]")
    parser.add_argument("--title", metavar="TEXT", help="[agent and environment]")


def _list(parser: Parser) -> None:
    parser.add_argument("what", choices=("agents", "envs", "presets", "runs"))
    parser.add_argument("folder", nargs="?", default="runs", help="of runs [runs]")


def _doctor(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="facts and findings as JSON")


def parser() -> Parser:
    top = Parser(
        prog="jaxrl",
        description="Reinforcement learning in JAX: agent and environment compiled into one "
        "program, a thousand runs at a time.",
        epilog="Example: jaxrl train ppo CartPole-v1 --seeds 64 --lr 3e-4",
    )
    top.add_argument("--version", action="store_true", help="and nothing else")
    top.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    with_agents = {"train": _train, "sweep": _sweep, "bench": _bench}
    others = {"resume": _resume, "eval": _eval, "enjoy": _enjoy, "plot": _plot, "report": _report,
              "export": _export, "list": _list, "doctor": _doctor}  # fmt: skip
    for name, about in COMMANDS.items():
        one = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if name in with_agents:
            _with_agents(one, name, with_agents[name])
        else:
            others[name](one)
    return top


# --------------------------------------------------------------------------------------- the call


def _tidy(words: Sequence[str]) -> list[str]:
    """`--num_envs` is `--num-envs`, `PPO` is `ppo`."""
    tidy: list[str] = []
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
        elif i == 1 and word.lower() in data.algorithms():
            word = word.lower()
        tidy.append(word)
    return tidy


def _refuse(top: Parser, unknown: list[str], given: argparse.Namespace) -> NoReturn:
    word = unknown[0]
    inner = top
    for choice in (given.command, getattr(given, "algorithm", None)):
        if choice:
            inner = inner.inner(choice)
    if not word.startswith("--"):
        inner.error(f"nothing is known to do with {word!r}")
    near = difflib.get_close_matches(word.partition("=")[0], inner.flags(), 3, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    inner.error(f"there is no flag {word}{hint}")


def settings(given: argparse.Namespace) -> dict[str, str]:
    """The fields of the agent that were given, as text."""
    return {k.partition(":")[2]: v for k, v in vars(given).items() if k.startswith("field:")}


def main(words: Sequence[str] | None = None) -> int:
    """-> the exit status: 0, 1 when the run failed, 2 when it could not begin."""
    top = parser()
    given, unknown = top.parse_known_args(_tidy(sys.argv[1:] if words is None else words))
    if unknown:
        _refuse(top, unknown, given)
    if given.version:
        from jaxrl import __version__

        print(f"jaxrl {__version__}")
        return 0
    if given.command is None:
        top.print_help()
        return 0
    module = "show" if given.command in ("plot", "report", "list") else given.command
    module = module if module in ("show", "doctor") else "commands"
    try:
        run = getattr(importlib.import_module(f"jaxrl.cli.{module}"), f"run_{given.command}")
        return run(given)
    except KeyboardInterrupt:
        folder = getattr(given, "folder", None)
        if given.command in ("train", "resume") and folder:
            print(f"or:\n\n    jaxrl resume {folder}\n", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `jaxrl list envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, RuntimeError, ModuleNotFoundError, OSError) as error:
        if given.traceback:
            raise
        print(f"jaxrl {given.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | TypeError | ModuleNotFoundError) else 1
