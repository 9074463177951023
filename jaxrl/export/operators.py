"""Each primitive of JAX that policies are made of, in ONNX's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrl.export.graph import Graph, Value

Operator = Callable[..., Any]


def _int64(*values: int) -> Any:
    return np.array(values, np.int64)


def _shape(v: Any) -> tuple[Any, ...]:
    return v.aval.shape


def _dtype(v: Any) -> np.dtype[Any]:
    return np.dtype(v.aval.dtype)


def _type(dtype: Any) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _scalar(eqn: Any, value: float) -> Any:
    return np.asarray(value, _dtype(eqn.invars[0]))


# ------------------------------------------------------------------------------- element by element


def _plain(kind: str) -> Operator:
    return lambda g, eqn, *inputs: g.op(kind, *inputs)


def _same(g: Graph, eqn: Any, *inputs: Value) -> list[Value]:
    return list(inputs)


def _rsqrt(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Reciprocal", g.op("Sqrt", x))


def _log1p(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Log", g.op("Add", x, _scalar(eqn, 1)))


def _expm1(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Sub", g.op("Exp", x), _scalar(eqn, 1))


def _exp2(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Pow", _scalar(eqn, 2), x)


def _square(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Mul", x, x)


def _integer_pow(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Pow", x, _scalar(eqn, eqn.params["y"]))


def _clamp(g: Graph, eqn: Any, low: Value, x: Value, high: Value) -> Value:
    return g.op("Min", g.op("Max", x, low), high)


def _not_equal(g: Graph, eqn: Any, a: Value, b: Value) -> Value:
    return g.op("Not", g.op("Equal", a, b))


def _is_finite(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Not", g.op("Or", g.op("IsNaN", x), g.op("IsInf", x)))


def _erfc(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Sub", _scalar(eqn, 1), g.op("Erf", x))


def _select(g: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    if len(cases) != 2 or _dtype(eqn.invars[0]) != np.bool_:
        raise NotImplementedError("ONNX export: a choice between more than two arrays.")
    no, yes = cases
    if _dtype(eqn.invars[1]) == np.bool_:  # runtimes lack Where for these
        kept = g.op("And", g.op("Not", which), no)
        return g.op("Or", g.op("And", which, yes), kept)
    return g.op("Where", which, yes, no)


def _convert(g: Graph, eqn: Any, x: Value) -> Value:
    if _dtype(eqn.invars[0]) == eqn.params["new_dtype"]:
        return x
    return g.op("Cast", x, to=_type(eqn.params["new_dtype"]))


# ------------------------------------------------------------------------------------------ shapes


def _to_shape(g: Graph, x: Value, sizes: tuple[Any, ...]) -> Value:
    """At most one size that is not known may be left to the runtime."""
    if sum(not isinstance(n, int) for n in sizes) == 1:
        return g.op("Reshape", x, _int64(*(n if isinstance(n, int) else -1 for n in sizes)))
    return g.op("Reshape", x, g.shape(sizes))


def _reshape(g: Graph, eqn: Any, x: Value) -> Value:
    return _to_shape(g, x, _shape(eqn.outvars[0]))


def _broadcast(g: Graph, eqn: Any, x: Value, *_: Value) -> Value:
    old, new = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    places = eqn.params["broadcast_dimensions"]
    ones: list[Any] = [1] * len(new)
    for size, place in zip(old, places, strict=True):
        ones[place] = size
    if tuple(ones) != tuple(old):
        x = _to_shape(g, x, tuple(ones))
    return x if tuple(ones) == tuple(new) else g.op("Expand", x, g.shape(new))


def _squeeze(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Squeeze", x, _int64(*eqn.params["dimensions"]))


def _expand_dims(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Unsqueeze", x, _int64(*eqn.params["dimensions"]))


def _transpose(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("Transpose", x, perm=list(eqn.params["permutation"]))


def _concatenate(g: Graph, eqn: Any, *parts: Value) -> Value:
    return g.op("Concat", *parts, axis=eqn.params["dimension"])


def _stack(g: Graph, eqn: Any, *parts: Value) -> Value:
    axis = eqn.params["axis"]
    return g.op("Concat", *(g.op("Unsqueeze", x, _int64(axis)) for x in parts), axis=axis)


def _unstack(g: Graph, eqn: Any, x: Value) -> list[Value]:
    axis, count = eqn.params["axis"], len(eqn.outvars)
    names = g.op("Split", x, _int64(*[1] * count), outputs=count, axis=axis)
    names = names if isinstance(names, list) else [names]
    return [g.op("Squeeze", name, _int64(axis)) for name in names]


def _slice(g: Graph, eqn: Any, x: Value) -> Value:
    sizes, begin, end = (
        _shape(eqn.invars[0]),
        eqn.params["start_indices"],
        eqn.params["limit_indices"],
    )
    strides = eqn.params["strides"] or (1,) * len(sizes)
    cut = [i for i in range(len(sizes)) if (begin[i], end[i], strides[i]) != (0, sizes[i], 1)]
    if not cut:
        return x
    parts = ([row[i] for i in cut] for row in (begin, end))
    return g.op("Slice", x, *(_int64(*p) for p in parts), _int64(*cut),
                _int64(*(strides[i] for i in cut)))  # fmt: skip


def _gather(g: Graph, eqn: Any, x: Value, index: Value) -> Value:
    """Of indexing and slicing by numbers that are known, along one axis or at one place."""
    where, taken = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    sizes, axes = _shape(eqn.invars[0]), tuple(where.start_index_map)
    lone = not isinstance(index, str) and index.ndim == 1
    whole = all(taken[i] == sizes[i] for i in range(len(sizes)) if i not in axes)
    single = len(axes) == 1 and tuple(where.collapsed_slice_dims) == axes
    if isinstance(index, str) or where.operand_batching_dims or not whole or not (lone or single):
        raise NotImplementedError(
            "ONNX export: indexing along several axes, or by computed numbers."
        )
    last = index + np.array([taken[i] for i in axes])
    if (index < 0).any() or (last > np.array([sizes[i] for i in axes])).any():
        raise NotImplementedError("ONNX export: indexing outside of an array.")
    if lone:
        y = g.op("Slice", x, _int64(*index), _int64(*last), _int64(*axes))
        gone = where.collapsed_slice_dims
        return g.op("Squeeze", y, _int64(*gone)) if gone else y
    (axis,), index = axes, np.asarray(index[..., 0], np.int64)
    y = g.op("Gather", x, index, axis=axis)
    inner = range(axis, axis + index.ndim)  # where ONNX puts the axes of the index
    rank = len(sizes) - 1 + index.ndim
    kept, new = iter([i for i in range(rank) if i not in inner]), iter(inner)
    order = [next(kept) if i in where.offset_dims else next(new) for i in range(rank)]
    return y if order == list(range(rank)) else g.op("Transpose", y, perm=order)


def _split(g: Graph, eqn: Any, x: Value) -> list[Value]:
    sizes = eqn.params["sizes"]
    names = g.op("Split", x, _int64(*sizes), outputs=len(sizes), axis=eqn.params["axis"])
    return names if isinstance(names, list) else [names]


# ---------------------------------------------------------------------------------------- products


def _dot(g: Graph, eqn: Any, a: Value, b: Value) -> Value:
    (over_a, over_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    rank_a, rank_b = (len(_shape(v)) for v in eqn.invars)
    if not batch_a and rank_a >= 2 and rank_b == 2 and over_a == (rank_a - 1,) and over_b == (0,):
        return g.op("MatMul", a, b)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_a, of_b = [next(letters) for _ in range(rank_a)], [next(letters) for _ in range(rank_b)]
    for i, j in (*zip(over_a, over_b, strict=True), *zip(batch_a, batch_b, strict=True)):
        of_b[j] = of_a[i]
    out = [of_a[i] for i in batch_a]
    out += [of_a[i] for i in range(rank_a) if i not in (*over_a, *batch_a)]
    out += [of_b[j] for j in range(rank_b) if j not in (*over_b, *batch_b)]
    words = ("".join(x) for x in (of_a, of_b, out))
    return g.op("Einsum", a, b, equation="{},{}->{}".format(*words))


def _convolution(g: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
    """ONNX wants channels in front; so do these transpositions."""
    p = eqn.params
    lhs, rhs, out = p["dimension_numbers"]
    if any(n != 1 for n in p["lhs_dilation"]) or p["batch_group_count"] != 1:
        raise NotImplementedError("ONNX export: a transposed convolution.")

    def moved(value: Value, order: Any) -> Value:
        if isinstance(value, str):
            return g.op("Transpose", value, perm=list(order))
        return np.transpose(value, order)

    before, after = zip(*p["padding"], strict=True) if p["padding"] else ((), ())
    y = g.op(
        "Conv",
        moved(x, lhs),
        moved(kernel, rhs),
        strides=list(p["window_strides"]),
        pads=[*before, *after],
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    return moved(y, np.argsort(out).tolist())


# -------------------------------------------------------------------------------------- reductions


def _sum(g: Graph, eqn: Any, x: Value) -> Value:
    return g.op("ReduceSum", x, _int64(*eqn.params["axes"]), keepdims=0)


def _reduce(kind: str) -> Operator:
    return lambda g, eqn, x: g.op(kind, x, axes=list(eqn.params["axes"]), keepdims=0)


def _reduce_flags(kind: str) -> Operator:
    def operator(g: Graph, eqn: Any, x: Value) -> Value:
        counted = g.op("Cast", x, to=_type(np.int32))
        found = g.op(kind, counted, axes=list(eqn.params["axes"]), keepdims=0)
        return g.op("Cast", found, to=_type(np.bool_))

    return operator


def _arg(kind: str) -> Operator:
    def operator(g: Graph, eqn: Any, x: Value) -> Value:
        (axis,) = eqn.params["axes"]
        return g.op(
            "Cast", g.op(kind, x, axis=axis, keepdims=0), to=_type(eqn.params["index_dtype"])
        )

    return operator


OPERATORS: dict[str, Operator] = {
    **{
        name: _plain(kind)
        for name, kind in {
            "abs": "Abs",
            "add": "Add",
            "and": "And",
            "ceil": "Ceil",
            "cos": "Cos",
            "div": "Div",
            "eq": "Equal",
            "erf": "Erf",
            "exp": "Exp",
            "floor": "Floor",
            "ge": "GreaterOrEqual",
            "gt": "Greater",
            "le": "LessOrEqual",
            "log": "Log",
            "logistic": "Sigmoid",
            "lt": "Less",
            "max": "Max",
            "min": "Min",
            "mul": "Mul",
            "neg": "Neg",
            "not": "Not",
            "or": "Or",
            "pow": "Pow",
            "round": "Round",
            "sign": "Sign",
            "sin": "Sin",
            "sqrt": "Sqrt",
            "sub": "Sub",
            "tan": "Tan",
            "tanh": "Tanh",
            "xor": "Xor",
            "atan": "Atan",
            "sinh": "Sinh",
            "cosh": "Cosh",
        }.items()
    },  # fmt: skip
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "copy": _same,
    "dot_general": _dot,
    "erfc": _erfc,
    "exp2": _exp2,
    "expand_dims": _expand_dims,
    "expm1": _expm1,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "log1p": _log1p,
    "ne": _not_equal,
    "optimization_barrier": _same,
    "reduce_and": _reduce_flags("ReduceMin"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_or": _reduce_flags("ReduceMax"),
    "reduce_sum": _sum,
    "reshape": _reshape,
    "rem": lambda g, eqn, a, b: g.op("Mod", a, b, fmod=1),
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _same,
    "transpose": _transpose,
    "unstack": _unstack,
}
