"""Exported programs act as the policy does, without jaxrl, for any number of observations."""

import dataclasses
import functools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import networks, policies, spaces
from jaxrl.export import operators, program, stepper
from jaxrl.result import Policy
from jaxrl.tensors import FileRefused
from jaxrl.types import Spec
from tests.untrained import draw, filled

pytest.importorskip("flatbuffers")
ONNX = [pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")]

MLP, CNN = networks.MLP((8,)), networks.MinAtarCNN(3, (8,), nn.silu)
VECTOR = spaces.Box(-np.inf, np.inf, (3,))
IMAGE, FRAMES = spaces.Box(0, 1, (6, 6, 2), bool), spaces.Box(0, 255, (44, 44, 2), np.uint8)
TWO = spaces.Box([-1.0, 0.0], [1.0, 4.0])
PARTS = spaces.Dict(
    {
        "kind": spaces.Discrete(3),
        "two": spaces.MultiDiscrete((2, 4)),
        "box": spaces.Box(-1, 1, (2, 2)),
    }
)


def masked(n: int, seen: spaces.Space = VECTOR) -> spaces.Dict:
    return spaces.Dict({"observation": seen, "action_mask": spaces.Box(0, 1, (n,), bool)})


PPO = functools.partial(jaxrl.PPO, num_envs=2, num_steps=8, minibatches=2, actor=MLP, critic=MLP)
SMALL = {"num_envs": 2, "capacity": 480, "batch_size": 8, "learning_starts": 50}
DQN = functools.partial(jaxrl.DQN, torso=MLP, **SMALL)
R2D2 = functools.partial(jaxrl.R2D2, num_steps=4, burn_in=2, length=4, **SMALL)
SAC = functools.partial(jaxrl.SAC, actor=MLP, critic=MLP, **SMALL)
LSTM, GRU_CNN = networks.LSTM(5), networks.GRU(6, torso=CNN)
NATURE = networks.NatureCNN(8)

CASES: dict[str, tuple[Callable[[], Any], spaces.Space, spaces.Space]] = {
    "discrete": (PPO, VECTOR, spaces.Discrete(4)),
    "masked": (PPO, masked(4), spaces.Discrete(4)),
    "masked multi-discrete": (PPO, masked(5), spaces.MultiDiscrete((2, 3))),
    "Gaussian, normalised": (lambda: jaxrl.NormalizeObs(PPO()), VECTOR, TWO),
    "Gaussian, unbounded": (PPO, PARTS, spaces.Box(-np.inf, np.inf, (2,))),
    "tanh": (lambda: PPO(policy=policies.TanhGaussian), VECTOR, TWO),
    "MinAtar": (lambda: PPO(actor=CNN, critic=CNN), IMAGE, spaces.Discrete(4)),
    "Nature": (lambda: DQN(torso=NATURE, head=networks.Dueling), FRAMES, spaces.Discrete(4)),
    "LSTM": (
        lambda: jaxrl.NormalizeObs(PPO(actor=LSTM, critic=networks.GRU(3))),
        VECTOR,
        TWO,
    ),
    "GRU": (lambda: R2D2(torso=GRU_CNN), masked(3, IMAGE), spaces.Discrete(3)),
    "DQN": (DQN, masked(4), spaces.Discrete(4)),
    "SAC": (SAC, VECTOR, TWO),
}


@functools.cache
def policy(name: str) -> Policy:
    make, obs_space, action_space = CASES[name]
    agent = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make())
    return filled(agent, Spec(obs_space, action_space, 100, 10_000))


def observations(one: Policy, batch: int, seed: int = 0) -> Any:
    return draw(one.spec.obs_space, batch, np.random.default_rng(seed))


BATCH = 5  # one that the check at export time does not use


@functools.cache
def actions(name: str) -> list[np.ndarray]:
    one = policy(name)
    memory, found = one.initial_memory(BATCH), []
    for i in range(3):
        action, memory = one.step(observations(one, BATCH, i), memory)
        found.append(np.asarray(action))
    return found


def compare(name: str, step: Callable[[Any, Any], tuple[Any, Any]], memory: Any) -> None:
    for i, wanted in enumerate(actions(name)):
        given, memory = step(observations(policy(name), BATCH, i), memory)
        assert given.shape == wanted.shape and given.dtype == wanted.dtype
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------- programs


def mostly_slow(*quick: str) -> list[Any]:
    return [x if x in quick else pytest.param(x, marks=pytest.mark.slow) for x in CASES]


@pytest.mark.parametrize("name", mostly_slow("masked multi-discrete", "Gaussian, unbounded"))
def test_a_program_acts_as_the_policy(name: str, tmp_path: Path) -> None:
    one = policy(name)
    made = one.export(tmp_path / "p")
    assert made.difference < 1e-6 and made.compared >= 64
    assert "differ from the live policy's by at most" in str(made)
    again = jaxrl.load_exported(tmp_path / "p")
    assert again.exported.platforms == ("cpu", "cuda")
    assert (again.obs_space, again.action_space) == (one.spec.obs_space, one.spec.action_space)
    compare(name, again.step, again.initial_memory(BATCH))


@pytest.mark.parametrize("name", ["LSTM", "tanh"])
def test_one_observation_at_a_time(name: str) -> None:
    again = program.unpack(written(name), "p")
    obs = observations(policy(name), BATCH)[2]
    if name == "LSTM":
        with pytest.raises(TypeError, match="this policy remembers"):
            again(obs)
        action, memory = again.step(obs, again.initial_memory())
        assert [x.shape for x in memory] == [x.shape for x in again.initial_memory()] == [(5,)] * 2
    else:
        action = again(obs.astype(np.float64))  # numbers of any type
        assert again.initial_memory() == ()
    np.testing.assert_allclose(action, actions(name)[0][2], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_program_is_played_by_evaluate(tmp_path: Path) -> None:
    env = jaxrl.envs.make("CartPole-v1")
    run = jaxrl.train(PPO(), env, jax.random.split(jax.random.key(0), 2), steps=64)[1]
    run.export(tmp_path / "p")
    theirs = jaxrl.evaluate(jaxrl.load_exported(tmp_path / "p"), env, episodes=3)
    np.testing.assert_array_equal(theirs.returns, jaxrl.evaluate(run, env, episodes=3).returns)


def test_a_process_without_jaxrl_reads_a_program(tmp_path: Path) -> None:
    (tmp_path / "lstm").write_bytes(written("LSTM"))
    (tmp_path / "masked").write_bytes(written("masked"))
    code = """
import sys
sys.modules["jaxrl"] = None  # an import of it would fail
import jax.export, numpy as np
lstm, masked = (jax.export.deserialize(bytearray(open(x, "rb").read())) for x in sys.argv[1:])
memory = (np.zeros((5, 5), np.float32),) * 2
obs = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
action, memory = lstm.call(obs, memory)
action, memory = lstm.call(obs, memory)
print(np.asarray(action).tolist())
mask = np.eye(4, dtype=bool)
print(masked.call({"observation": obs[:4], "action_mask": mask}).tolist())
"""
    words = [sys.executable, "-c", code, str(tmp_path / "lstm"), str(tmp_path / "masked")]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    first, second = map(json.loads, ran.stdout.splitlines())
    one = policy("LSTM")
    obs = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
    _, memory = one.step(obs, one.initial_memory(5))
    np.testing.assert_allclose(first, one.step(obs, memory)[0], rtol=1e-5, atol=1e-6)
    assert second == [0, 1, 2, 3]  # one action was allowed in each


# ------------------------------------------------------------------------------------------ ONNX


@pytest.mark.parametrize(
    "name",
    mostly_slow("masked multi-discrete", "Gaussian, normalised", "tanh", "MinAtar", "LSTM", "GRU"),
)
def test_a_model_acts_as_the_policy(name: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    one = policy(name)
    made = one.export(tmp_path / "p.onnx", "onnx")
    assert made.difference < 1e-5 and made.format == "onnx"
    content = (tmp_path / "p.onnx").read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)  # shapes and types too
    about = json.loads({p.key: p.value for p in model.metadata_props}["jaxrl"])
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for x in (*session.get_inputs(), *session.get_outputs()):
        assert x.shape[0] == "batch"

    def start(batch: int) -> tuple[np.ndarray, ...]:
        return tuple(np.zeros((batch, *x["shape"]), x["array"]) for x in about["memory"])

    def step(obs: Any, memory: tuple[Any, ...]) -> tuple[Any, Any]:
        given = {f"obs.{k}": x for k, x in obs.items()} if isinstance(obs, dict) else {"obs": obs}
        given |= {f"memory_{i}": x for i, x in enumerate(memory)}
        action, *after = session.run(None, given)
        return action, tuple(after)

    assert len(start(1)) == {"LSTM": 2, "GRU": 1}.get(name, 0)
    compare(name, step, start(BATCH))


class Odd(nn.Module):
    """Of parts that are rare in policies."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("w", nn.initializers.normal(1.0), (3, 4, 5))
        y = jnp.einsum("bi,ijk->bjk", x, w)  # [B, 4, 5]
        z = jnp.einsum("bjk,bjl->bkl", y, y[:, :, ::2])  # [B, 5, 3]
        z = jnp.where(z.max(-1, keepdims=True) > 1, jax.nn.gelu(z), jnp.exp2(-jnp.abs(z)))
        z = jnp.concatenate([z.mean(1), jnp.clip(y.sum(-1), -2, 2), jax.nn.softplus(x)], -1)
        z = jnp.where(jnp.any(x > 0.5, -1, keepdims=True) & jnp.isfinite(z), z, jnp.expm1(-(z**2)))
        z = z + jax.nn.log_softmax(z) + jax.lax.erfc(z) + jnp.min(z) * 0 + jnp.sign(z) % 1
        parts = jnp.split(z, 2, -1)
        return jax.nn.elu(parts[0]) * jax.lax.rsqrt(1 + parts[1].prod(-1, keepdims=True) ** 2)


class Sorted(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.sort(nn.Dense(3)(x))


def own(torso: nn.Module) -> Policy:
    return filled(PPO(actor=torso, policy=policies.TanhGaussian), Spec(VECTOR, TWO))


def test_networks_of_ones_own(tmp_path: Path) -> None:
    assert own(Odd()).export(tmp_path / "odd", "onnx").difference < 1e-5
    with pytest.raises(NotImplementedError, match=r"knows no 'sort'.*format=\"jax\""):
        own(Sorted()).export(tmp_path / "sorted", "onnx")
    assert not (tmp_path / "sorted").exists()
    assert own(Sorted()).export(tmp_path / "sorted").difference < 1e-6


# ------------------------------------------------------------------------------------- the check


@pytest.mark.parametrize(
    ("name", "shown"), [("tanh", "by up to"), ("masked multi-discrete", r"in \d+ of 64")]
)
def test_a_copy_that_differs_is_not_written(
    name: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(operators.OPERATORS, "add", operators.OPERATORS["sub"])
        with pytest.raises(RuntimeError, match=f"differ {shown}"):
            policy(name).export(tmp_path / "p", "onnx")
    live = stepper.stepper(policy(name).agent, policy(name).state, policy(name).spec)

    def rounded(obs: Any, memory: Any) -> tuple[Any, Any]:
        action, memory = live.step(obs, memory)
        return action + 1 if action.dtype == jnp.int32 else action * (1 + 2e-3), memory

    with pytest.raises(RuntimeError, match=f"the file does not act .*differ {shown}"):
        stepper.compare(live, rounded, "the file")
    with pytest.raises(RuntimeError, match="gives actions float16"):
        stepper.compare(live, lambda o, m: (live.step(o, m)[0].astype(jnp.float16), m), "the file")
    with pytest.raises(RuntimeError, match="differ"):
        stepper.compare(
            live, lambda o, m: ((a := live.step(o, m)[0]) * 0 + jnp.asarray(-9, a.dtype), m), "it"
        )
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="format='tf' is unknown: give one of jax, onnx"):
        policy("tanh").export(tmp_path / "p", "tf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for format, package in (("jax", "flatbuffers"), ("onnx", "onnx")):
        with pytest.raises(ModuleNotFoundError, match=rf"needs {package}: pip .*jaxrl\[export\]"):
            policy("tanh").export(tmp_path / "p", format)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- damage


@functools.cache
def written(name: str = "tanh") -> bytes:
    content: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxrl.tensors.put", lambda path, x: content.append(x))
        program.write(policy(name), Path("p"))
    return content[0]


def damaged(content: bytes, chance: random.Random) -> Iterator[bytes]:
    size = len(content)
    while True:
        at, count = chance.randrange(size), chance.randrange(1, 40)
        noise = chance.randbytes(count)
        flipped = bytearray(content)
        flipped[at] ^= 1 << chance.randrange(8)
        yield bytes(flipped)
        yield content[:at]
        yield content[:at] + noise + content[at:]
        yield content[:at] + content[at + count :]
        yield content[:at] + noise + content[at + count :]
        yield content + noise
        end = size - program.TAIL.size
        yield content[:end] + chance.randbytes(16) + content[end + 16 :]  # the lengths
        yield content[:-8] + chance.randbytes(8)
        yield noise


def test_no_damage_reaches_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    content, path, seen = written(), Path("a/p"), 0
    assert program.unpack(content, path)

    def reached(*_: Any) -> Any:
        raise AssertionError("damaged bytes were given to jax.export")

    monkeypatch.setattr("jax.export.deserialize", reached)
    for broken in damaged(content, random.Random(3)):
        if broken != content:
            with pytest.raises(FileRefused, match="^a/p cannot be used: "):
                program.unpack(broken, path)
            seen += 1
        if seen == 2000:
            break
    for bit in range(0, 8 * len(content), 11):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FileRefused):
            program.unpack(bytes(broken), path)


def test_what_is_sealed_but_wrong_is_refused() -> None:
    content = written()
    length, more, *_ = program.TAIL.unpack(content[-program.TAIL.size :])
    body, about = content[:length], json.loads(content[length : length + more])

    def packed(program_bytes: bytes = body, **changed: Any) -> bytes:
        return program.pack(program_bytes, json.dumps(about | changed).encode())

    assert program.unpack(packed(), "p")
    other = {"class": "jaxrl.spaces:Discrete", "fields": {"n": 3}}
    wrong = {
        "it is not of format 1": packed(kind="jaxrl policy"),
        "it is not of format 1 ": packed(format=2),
        "other arrays than its spaces say": packed(obs_space=other),
        "other arrays than its spaces say ": packed(memory=[{"array": "float32", "shape": [1],
                                                             "values": [0.0]}]),
        "cannot be read": packed(obs_space={"name": "os:system"}),
        "cannot be read ": packed(action_space=3),
        "cannot be read  ": packed(b"nothing that jax.export wrote, but as long as it may be"),
        "cannot be read   ": packed(b""),
        "its JSON": program.pack(body, b"[" * 100_000),
    }  # fmt: skip
    for why, file in wrong.items():
        with pytest.raises(FileRefused, match=f"^p cannot be used: .*{why.strip()}"):
            program.unpack(file, "p")


def test_only_what_acting_needs_is_in_a_program() -> None:
    """A replay of half a million observations would be seen in the size of the file."""
    agent = dataclasses.replace(CASES["SAC"][0](), capacity=500_000)
    one = filled(agent, Spec(VECTOR, TWO, 100, 1000))
    assert sum(x.nbytes for x in jax.tree.leaves(one.state)) > 10_000_000
    content: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxrl.tensors.put", lambda path, x: content.append(x))
        program.write(one, Path("p"))
    assert len(content[0]) < 20_000


def test_the_code_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/policies.md", "exec"), names)
    assert names["score"].mean > 10 and names["actions"].tolist() == [names["action"].tolist()]
    assert str(names["made"]).endswith("live policy's by at most 0")
    assert "cartpole.jax (jax, " in str(names["made"]) and names["made"].compared == 64
