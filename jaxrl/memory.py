"""How much memory a call of `train` will take, read off its program before that is compiled.

The program is known before compilation as a list of operations with the shapes of their results.
`work` walks along it as a compiler would: a result occupies memory from the operation that makes it
to the last one that reads it; elementwise operations are fused with those that read them and
occupy none; a result takes the place of an operand that nobody reads any more; the state carried
round a loop is there once. The largest sum on the way is the estimate.

What is left out: the compiler's own memory, JAX itself, and the copy on the host that a checkpoint
makes of the state.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
import weakref
from collections import Counter as Tally
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxrl import devices
from jaxrl.lanes import Lanes
from jaxrl.types import PyTree

Atom: TypeAlias = Any
Equation: TypeAlias = Any

VIEWS = {"reshape", "squeeze", "expand_dims", "stop_gradient", "optimization_barrier", "copy_p"}
"""The same memory under another shape."""

FUSED = VIEWS | {
    "abs",
    "add",
    "add_any",
    "and",
    "atan2",
    "bitcast_convert_type",
    "broadcast_in_dim",
    "ceil",
    "clamp",
    "concatenate",
    "convert_element_type",
    "cos",
    "div",
    "dynamic_slice",
    "eq",
    "erf",
    "erf_inv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "gather",
    "ge",
    "gt",
    "integer_pow",
    "iota",
    "is_finite",
    "le",
    "log",
    "log1p",
    "logistic",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "neg",
    "nextafter",
    "not",
    "or",
    "pad",
    "pow",
    "random_bits",
    "random_fold_in",
    "random_seed",
    "random_split",
    "random_unwrap",
    "random_wrap",
    "rem",
    "rev",
    "round",
    "rsqrt",
    "select_n",
    "shift_left",
    "shift_right_arithmetic",
    "shift_right_logical",
    "sign",
    "sin",
    "slice",
    "split",
    "sqrt",
    "square",
    "sub",
    "tan",
    "tanh",
    "transpose",
    "xor",
}
"""Computed where they are read."""

READERS = FUSED | {
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax",
    "argmin", "dynamic_update_slice", "sharding_constraint",
}  # fmt: skip
"""Operations into which the computation of an operand can be drawn."""

IN_PLACE = FUSED | {
    "dynamic_update_slice", "scatter", "scatter-add", "scatter_add", "while", "scan", "cond",
    "sharding_constraint", "shard_map", "cumsum", "sort",
}  # fmt: skip
"""May write where an operand was."""

NOT_REUSED = ("conv_general_dilated",)

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes on all devices together."""

    state: int  # of all runs, from the first iteration to the last
    work: int  # what an iteration needs beside it: rollouts, minibatches, gradients

    @property
    def total(self) -> int:
        return self.state + self.work

    def __str__(self) -> str:
        return f"{size(self.total)} ({size(self.state)} of it the state of the runs)"


def size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def nbytes(x: Any) -> int:
    """Of an array, its shape, or what stands for it in a program."""
    shape, dtype = getattr(x, "shape", ()), getattr(x, "dtype", None)
    if dtype is None:
        return 0
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return math.prod(shape) * 8
    return math.prod(shape) * dtype.itemsize


def of(tree: PyTree) -> int:
    return sum(nbytes(x) for x in jax.tree.leaves(tree))


_walked: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""What `work` found of programs that are called again"""


def estimate(program: Any, state: PyTree, copies: int = 1) -> Estimate:
    """Of a closed `program` that advances `state` where it lies (it is donated); `copies` devices
    hold it each."""
    jaxpr = program.jaxpr
    if jaxpr not in _walked:
        _walked[jaxpr] = max(0, work(jaxpr, frozenset(range(len(jaxpr.invars)))))
    return Estimate(of(state) * copies, _walked[jaxpr])


def warn(needed: Estimate, lanes: Lanes | None, processes: int = 1, there: int = 0) -> None:
    """Where that is more than there is, beside the `there` bytes of it that exist already. It is an
    estimate, so the call goes on."""
    free = devices.memory_free()
    if free is None or needed.total - there <= free * processes:
        return
    remedy = "a smaller num_envs, num_steps, batch_size or capacity"
    if lanes is not None and lanes.group > 1:
        fewer = max(1, lanes.group // 2)
        remedy = f"lanes={fewer}, which advances fewer runs at a time, or {remedy}"
    warnings.warn(
        f"training will take about {needed}, and {size(free)} are free: write {remedy}.",
        RuntimeWarning,
        stacklevel=2,
    )


# -------------------------------------------------------------------------------- the walk


def _inlined(jaxpr: Any) -> tuple[list[Equation], list[Atom]]:
    """The operations of a program with those of its calls in their place."""
    names: dict[Atom, Atom] = {}

    def known(x: Atom) -> Atom:
        while not isinstance(x, Literal) and x in names:
            x = names[x]
        return x

    found: list[Equation] = []

    def walk(body: Any) -> None:
        for eqn in body.eqns:
            inner = _called(eqn)
            if inner is None:
                found.append((eqn, [known(x) for x in eqn.invars], list(eqn.outvars)))
                continue
            # A function that is called twice has one body: each call gets variables of its own.
            fresh: dict[Atom, Atom] = {}
            for var, given in zip(inner.invars, eqn.invars, strict=False):
                fresh[var] = known(given)
            walk_call(inner, fresh)
            for out, var in zip(eqn.outvars, inner.outvars, strict=False):
                names[out] = var if isinstance(var, Literal) else fresh.get(var, var)

    def walk_call(body: Any, fresh: dict[Atom, Atom]) -> None:
        def local(x: Atom) -> Atom:
            return x if isinstance(x, Literal) else known(fresh.get(x, x))

        for eqn in body.eqns:
            for out in eqn.outvars:
                fresh[out] = _Variable(out.aval)
            inner = _called(eqn)
            operands = [local(x) for x in eqn.invars]
            if inner is None:
                found.append((eqn, operands, [fresh[x] for x in eqn.outvars]))
                continue
            deeper = dict(zip(inner.invars, operands, strict=False))
            walk_call(inner, deeper)
            for out, var in zip(eqn.outvars, inner.outvars, strict=False):
                names[fresh[out]] = var if isinstance(var, Literal) else known(deeper.get(var, var))

    walk(jaxpr)
    return found, [known(x) for x in jaxpr.outvars]


def _turned_late(equations: list[Any]) -> list[Any]:
    """A matrix that is turned round for one product (see `jaxrl.networks.product`) is turned when
    that is computed: both stand right before their first reader."""
    maker = {result: i for i, (_, _, results) in enumerate(equations) for result in results}
    moved: dict[int, list[int]] = {}
    for i, (eqn, operands, results) in enumerate(equations):
        if eqn.primitive.name != "optimization_barrier" or len(operands) != 1:
            continue
        before = None if isinstance(operands[0], Literal) else maker.get(operands[0])
        if before is None or equations[before][0].primitive.name != "transpose":
            continue
        readers = (j for j in range(i + 1, len(equations)) if results[0] in equations[j][1])
        first = next(readers, None)
        if first is not None:
            moved.setdefault(first, []).extend([before, i])
    gone = {i for pair in moved.values() for i in pair}
    order: list[int] = []
    for i in range(len(equations)):
        order += moved.get(i, [])
        order += [] if i in gone else [i]
    return [equations[i] for i in order]


class _Variable:
    """A variable of one call of a function."""

    def __init__(self, aval: Any) -> None:
        self.aval = aval


def _called(eqn: Any) -> Any:
    if eqn.primitive.name not in CALLS:
        return None
    inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
    return getattr(inner, "jaxpr", inner)


def work(jaxpr: Any, owned: frozenset[int] = frozenset()) -> int:
    """Bytes beyond the inputs at the worst moment. Inputs with a number in `owned` may be written
    over: they are carried round a loop."""
    equations, outputs = _inlined(jaxpr)
    equations = _turned_late(equations)
    own = {x for i, x in enumerate(jaxpr.invars) if i in owned}
    inputs = set(jaxpr.invars) | set(jaxpr.constvars)
    reads: Tally[Atom] = Tally()
    outside: set[Atom] = {x for x in outputs if not isinstance(x, Literal)}  # must be in memory
    for eqn, operands, _ in equations:
        for x in operands:
            if not isinstance(x, Literal):
                reads[x] += 1
                if eqn.primitive.name not in READERS:
                    outside.add(x)
    for eqn, operands, results in reversed(equations):
        if eqn.primitive.name in VIEWS:  # what is seen must be there
            pairs = zip(operands, results, strict=True)
            outside.update(x for x, y in pairs if y in outside and not isinstance(x, Literal))

    # What a variable is computed from: itself where it is in memory.
    roots: dict[Atom, frozenset[Atom]] = {x: frozenset([x]) for x in inputs}
    for eqn, operands, results in equations:
        name = eqn.primitive.name
        below = [roots[x] for x in operands if not isinstance(x, Literal) and x in roots]
        sources = frozenset[Atom]().union(*below)
        for i, x in enumerate(results):
            if name in VIEWS:
                seen = operands[i]
                roots[x] = frozenset() if isinstance(seen, Literal) else roots.get(seen, sources)
            else:
                virtual = name in FUSED and x not in outside
                roots[x] = sources if virtual else frozenset([x])

    last: dict[Atom, int] = {}
    for i, (_, operands, _) in enumerate(equations):
        for x in operands:
            if not isinstance(x, Literal):
                for root in roots.get(x, ()):
                    last[root] = i
    for x in outputs:
        if not isinstance(x, Literal):
            for root in roots.get(x, ()):
                last[root] = len(equations)

    dying: dict[int, list[Atom]] = {}
    for x, i in last.items():
        if x in own or x not in inputs:
            dying.setdefault(i, []).append(x)
    # On CPUs the result of a convolution is not written over by what follows it (measured).
    kept = {x for eqn, _, found in equations if eqn.primitive.name in NOT_REUSED for x in found}
    alive = worst = 0
    for i, (eqn, _, results) in enumerate(equations):
        made = sum(nbytes(x.aval) for x in results if x in roots.get(x, ()) and x in last)
        gone = sum(nbytes(x.aval) for x in dying.get(i, []))
        name = eqn.primitive.name
        free = sum(nbytes(x.aval) for x in dying.get(i, []) if x not in kept)
        reused = min(free, made) if name in IN_PLACE else 0
        if name == "scan":  # what is stacked up step by step has a place of its own
            reused = min(free, sum(nbytes(x.aval) for x in results[: eqn.params["num_carry"]]))
        worst = max(worst, alive + made - reused + _inside(eqn))
        alive += made - gone
    return worst


def _inside(eqn: Any) -> int:
    """What the body of a loop or the branches of a condition need beside their results."""
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        first = params["num_consts"]
        carried = frozenset(range(first, first + params["num_carry"]))
        return work(params["jaxpr"].jaxpr, carried)
    if name == "while":
        first = params["body_nconsts"]
        body = params["body_jaxpr"].jaxpr
        return work(body, frozenset(range(first, len(body.invars))))
    if name == "cond":
        return max(work(branch.jaxpr) for branch in params["branches"])
    if name == "shard_map":
        # Inside, shapes are those of one part along these axes.
        manual = params.get("newly_manual_axes", params.get("manual_axes", ()))
        parts = math.prod(n for axis, n in params["mesh"].shape.items() if axis in manual)
        return work(params["jaxpr"], frozenset(range(len(params["jaxpr"].invars)))) * parts
    return 0
