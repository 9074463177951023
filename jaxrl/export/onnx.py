"""A policy as an ONNX model: for runtimes in other languages, browsers, robots.

Inputs `obs` (or `obs.name` for each part of a Dict) and `memory_0`, ... of a policy that remembers;
outputs `action` and `next_memory_0`, ... The first axis of all is the batch, of any size. What a
memory is before the first step of an episode stands in the metadata, with the spaces.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl import __version__, describe, spaces, tensors
from jaxrl.export import needs
from jaxrl.export.graph import IR_VERSION, OPSET, Graph
from jaxrl.export.stepper import Memory, Step, Stepper, compare, stepper
from jaxrl.result import Policy
from jaxrl.types import PyTree


def write(policy: Policy, path: Path) -> tuple[float, int]:
    """-> the largest difference from the live policy, and on how many actions."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise needs(package, "onnx")
    live = stepper(policy.agent, policy.state, policy.spec)
    content = model(live, type(policy.agent).__name__)
    found = compare(live, runtime(content, live.spec.obs_space), f"the ONNX model for {path}")
    tensors.put(path, content)
    return found


def model(live: Stepper, agent: str) -> bytes:
    import onnx
    from jax import export
    from onnx import helper

    (batch,) = export.symbolic_shape("batch")
    obs = jax.eval_shape(lambda: spaces.zeros(live.spec.obs_space))
    given = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype), (obs, live.memory)
    )
    program = jax.make_jaxpr(live.step)(*given)
    inputs = [*_names(live.spec.obs_space), *(f"memory_{i}" for i in range(len(live.memory)))]
    outputs = ["action", *(f"next_memory_{i}" for i in range(len(live.memory)))]

    graph = Graph()
    graph.first_input = inputs[0]
    wanted = [True] * len(outputs)
    found = graph.run(program.jaxpr, program.consts, inputs, wanted)
    for name, value in zip(outputs, found, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.name(value)], [name]))

    def info(name: str, aval: Any) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
        return helper.make_tensor_value_info(name, kind, ["batch", *aval.shape[1:]])

    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [info(n, x) for n, x in zip(inputs, program.in_avals, strict=True)],
            [info(n, x) for n, x in zip(outputs, program.out_avals, strict=True)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxrl",
        producer_version=__version__,
    )
    about = {
        "agent": agent,
        "obs_space": describe.describe(live.spec.obs_space),
        "action_space": describe.describe(live.spec.action_space),
        "memory": [describe.describe(x) for x in live.memory],
    }
    helper.set_model_props(made, {"jaxrl": json.dumps(about)})
    onnx.checker.check_model(made)
    return made.SerializeToString()


def _names(space: spaces.Space, name: str = "obs") -> list[str]:
    """Of the inputs, in the order of the leaves."""
    if isinstance(space, spaces.Dict):
        return [x for part, inside in space.items for x in _names(inside, f"{name}.{part}")]
    return [name]


def runtime(content: bytes, space: spaces.Space) -> Step:
    """The model as a function, computed by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = _names(space)

    def step(obs: PyTree, memory: Memory) -> tuple[Any, Memory]:
        given = dict(zip(names, jax.tree.leaves(obs), strict=True))
        given |= {f"memory_{i}": x for i, x in enumerate(memory)}
        needed = {x.name for x in session.get_inputs()}
        action, *after = session.run(
            None, {n: np.asarray(x) for n, x in given.items() if n in needed}
        )
        return action, tuple(after)

    return step


__all__ = ["model", "runtime", "write"]
