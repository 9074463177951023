"""A traced program as an ONNX graph.

The program of a policy (a jaxpr) is a list of equations over arrays. Equations whose inputs are
known, such as parameters, are computed here and now; each other one becomes a few ONNX nodes
(`jaxrl.export.operators`). Where the number of observations decides a shape, the graph asks for it
when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal

from jaxrl import acting

Array = np.ndarray[Any, Any]
Value = Any
"""An array that is known, or the name of one that is not yet (`str`)."""

OPSET, IR_VERSION = 17, 8
"""Of 2022: old enough for every runtime in use."""


class Graph:
    """Nodes in the order in which they are computed, and the arrays they start from."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0
        self._batch: str | None = None
        self.first_input: str = ""

    # ------------------------------------------------------------------------------ building

    def fresh(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def name(self, value: Value) -> str:
        """A known array becomes a constant of the graph, equal ones the same."""
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        x = np.asarray(value)
        key = (x.dtype.name, x.shape, x.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self._known)}"
            self.constants.append(numpy_helper.from_array(x, self._known[key]))
        return self._known[key]

    def op(self, kind: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node. -> the name of its output, or a list of them"""
        from onnx import helper

        names = [self.fresh() for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, [self.name(x) for x in inputs], names, **attributes)
        )
        return names[0] if outputs == 1 else names

    def shape(self, sizes: Sequence[Any]) -> Value:
        """The sizes as an array; the number of observations is looked up when the graph runs."""
        if all(isinstance(n, int) for n in sizes):
            return np.array(sizes, np.int64)
        if self._batch is None:
            self._batch = self.op("Shape", self.first_input, start=0, end=1)
        pieces: list[Value] = []
        for n in sizes:
            if isinstance(n, int):
                pieces.append(np.array([n], np.int64))
            elif str(n) == "batch":
                pieces.append(self._batch)
            else:
                raise NotImplementedError(f"ONNX export: an array with an axis of {n} elements.")
        return pieces[0] if len(pieces) == 1 else self.op("Concat", *pieces, axis=0)

    # ------------------------------------------------------------------------------- running

    def run(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Any],
        inputs: Sequence[Value],
        wanted: Sequence[bool],
    ) -> list[Value]:
        """The nodes of a program; outputs that are not wanted are None."""
        from jaxrl.export.operators import OPERATORS

        values: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(v: Any) -> Value:
            if isinstance(v, Literal):
                return np.asarray(v.val, v.aval.dtype)  # pyright: ignore
            value = values.get(v)
            return value if value is None or isinstance(value, str) else np.asarray(value)

        equations, used = acting.needed(jaxpr, wanted)
        for eqn in equations:
            given = [read(v) for v in eqn.invars]
            called, name = acting.inner(eqn), eqn.primitive.name
            sizes = [n for v in eqn.outvars for n in v.aval.shape]  # pyright: ignore
            if called is not None:
                marks = [v in used for v in eqn.outvars]
                made = self.run(*called, given, marks)
            elif all(isinstance(n, int) for n in sizes) and not any(
                isinstance(x, str) for x in given
            ):
                out: Any = eqn.primitive.bind(*map(jnp.asarray, given), **eqn.params)
                made = [np.asarray(x) for x in (out if eqn.primitive.multiple_results else [out])]
            elif name in OPERATORS:
                made = OPERATORS[name](self, eqn, *given)
                made = made if isinstance(made, list) else [made]
            else:
                raise NotImplementedError(
                    f"ONNX export knows no {name!r}, which this policy computes: use "
                    'format="jax", or a network of simpler parts.'
                )
            values.update(zip(eqn.outvars, made, strict=True))
        return [read(v) if mark else None for v, mark in zip(jaxpr.outvars, wanted, strict=True)]
