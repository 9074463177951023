"""A policy's file acts as the policy did, holds nothing else, and is read with suspicion."""

import dataclasses
import functools
import json
import random
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
from jaxrl import (
    allowed,
    behaviour,
    describe,
    networks,
    policies,
    rollout,
    saved,
    spaces,
    stepsizes,
    tensors,
    traces,
)
from jaxrl.agents.tabular import q_lambda
from jaxrl.result import Policy
from jaxrl.struct import static, struct
from jaxrl.tensors import FileRefused
from jaxrl.types import ActOut, Spec
from tests.untrained import draw, filled

GRU, LSTM = networks.GRU(6), networks.LSTM(5)
MLP, CNN = networks.MLP((8,)), networks.MinAtarCNN(3, (8,))
VECTOR = spaces.Box(-np.inf, np.inf, (3,))
IMAGE = spaces.Box(0, 1, (6, 6, 2), bool)
TWO = spaces.Box([-1.0, 0.0], [1.0, 4.0])


def masked(n: int) -> spaces.Dict:
    return spaces.Dict({"observation": VECTOR, "action_mask": spaces.Box(0, 1, (n,), bool)})


PPO = functools.partial(jaxrl.PPO, num_envs=2, num_steps=8, minibatches=2, actor=MLP, critic=MLP)
SMALL = {"num_envs": 2, "capacity": 480, "batch_size": 8, "learning_starts": 50}
DQN = functools.partial(jaxrl.DQN, torso=MLP, **SMALL)
SAC = functools.partial(jaxrl.SAC, actor=MLP, critic=MLP, **SMALL)
R2D2 = functools.partial(jaxrl.R2D2, torso=GRU, num_steps=4, burn_in=2, length=4, **SMALL)

TABLE = functools.partial(
    jaxrl.QLambda,
    exploration=behaviour.GLIE(2.0),
    decay=stepsizes.Polynomial(0.7),
    cut=q_lambda.retrace,
    kind=traces.dutch,
    trace=traces.Recent(64),
)

CASES: dict[str, tuple[Callable[[], Any], spaces.Space, spaces.Space]] = {
    "PPO": (PPO, VECTOR, spaces.Discrete(4)),
    "PPO masked": (PPO, masked(4), spaces.Discrete(4)),
    "PPO multi-discrete": (PPO, masked(5), spaces.MultiDiscrete((2, 3))),
    "PPO Gaussian normalised": (
        lambda: jaxrl.NormalizeObs(jaxrl.NormalizeReward(PPO())),
        VECTOR,
        TWO,
    ),
    "PPO tanh": (lambda: PPO(policy=policies.TanhGaussian), VECTOR, TWO),
    "PPO CNN": (lambda: PPO(actor=CNN, critic=CNN), IMAGE, spaces.Discrete(4)),
    "PPO recurrent": (lambda: PPO(actor=LSTM, critic=GRU), VECTOR, TWO),
    "DQN": (lambda: DQN(head=networks.Dueling), spaces.Discrete(5), spaces.Discrete(4)),
    "DQN masked": (DQN, masked(4), spaces.Discrete(4)),
    "R2D2": (R2D2, VECTOR, spaces.Discrete(3)),
    "SAC": (SAC, VECTOR, TWO),
    "table": (TABLE, spaces.Discrete(5), spaces.Discrete(4)),
}


@functools.cache
def policy(name: str) -> Policy:
    make, obs_space, action_space = CASES[name]
    agent = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make())
    return filled(agent, Spec(obs_space, action_space, 100, 10_000))


def observations(one: Policy, batch: int, seed: int = 0) -> Any:
    return draw(one.spec.obs_space, batch, np.random.default_rng(seed))


def play(one: Policy, batch: int = 16, explore: bool = False) -> np.ndarray:
    """Actions [steps, batch, ...]"""
    memory, rows = one.initial_memory(batch), []
    for i in range(4):
        key = jax.random.key(i)
        action, memory = one.step(observations(one, batch, i), memory, key, explore)
        rows.append(np.asarray(action))
    return np.stack(rows)


# ------------------------------------------------------------------------------------- the same


QUICK = ("PPO Gaussian normalised", "PPO recurrent", "DQN masked", "SAC", "table")


@pytest.mark.parametrize(
    "name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in CASES]
)
def test_it_acts_as_it_did(name: str, tmp_path: Path) -> None:
    one = policy(name)
    again = jaxrl.load_policy(one.save(tmp_path / "p.safetensors"))
    assert again.spec == one.spec and type(again.agent) is type(one.agent)
    for explore in (False, True):
        ours, theirs = play(one, explore=explore), play(again, explore=explore)
        np.testing.assert_array_equal(ours, theirs)
    assert (
        len(np.unique(np.concatenate(play(one)), axis=0)) > 1
    )  # a policy that looks at what it is shown
    if again.initial_memory() is None:
        obs = jax.tree.map(lambda x: x[0], observations(one, 1))
        np.testing.assert_array_equal(again(obs), one(obs))
    # A second generation is the same file.
    assert again.save(tmp_path / "q").read_bytes() == (tmp_path / "p.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("PPO", {"params.actor"}),
        ("PPO Gaussian normalised", {"inner.inner.params.actor", "moments.mean", "moments.var"}),
        ("PPO recurrent", {"params.actor"}),
        ("DQN", {"params"}),
        ("R2D2", {"params"}),
        ("SAC", {"actor"}),
    ],
)
def test_it_holds_what_acting_needs(name: str, needed: set[str], tmp_path: Path) -> None:
    one = policy(name)
    path = one.save(tmp_path / "p")
    arrays, _ = tensors.unpack(path.read_bytes(), path)
    floats = {k for k, x in arrays.items() if x.dtype == np.float32}
    for name in floats:
        assert any(name.startswith(part) for part in needed), name
    for part in needed:
        assert any(name.startswith(part) for name in floats), part
    for k in set(arrays) - floats:  # counters
        assert arrays[k].shape == () and arrays[k].dtype == np.int32
    weights = sum(x.nbytes for x in arrays.values())
    assert path.stat().st_size < weights + 8000


def test_one_of_many_and_evaluation(tmp_path: Path) -> None:
    env = jaxrl.envs.make("CartPole-v1")
    runs = jaxrl.train(PPO(), env, jax.random.split(jax.random.key(0), 2), steps=64)
    with pytest.raises(TypeError, match="2 runs"):
        runs.save_policy(tmp_path / "p")
    again = jaxrl.load_policy(runs[1].save_policy(tmp_path / "p"))
    ours = jaxrl.evaluate(runs[1].policy, env, episodes=4)
    theirs = jaxrl.evaluate(again, env, episodes=4)
    np.testing.assert_array_equal(ours.returns, theirs.returns)
    other = jaxrl.evaluate(runs[0].policy, env, episodes=4)
    assert (other.returns != ours.returns).any()
    with pytest.raises(ValueError, match="was trained on"):
        jaxrl.evaluate(again, jaxrl.envs.make("Pendulum-v1"))


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    given = {
        "a.b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "flag": np.array([True, False, True]),
        "none": np.zeros((0, 4), np.int64),
        "small": np.array(7, np.uint8),
        "half": np.array([1.5, -2], jnp.bfloat16),
    }
    path = tensors.put(tmp_path / "x", tensors.pack(given, {"note": 'a "quoted" ü'}))
    with safetensors.safe_open(path, "flax") as file:
        assert file.metadata()["note"] == 'a "quoted" ü'
        assert set(file.keys()) == set(given)
        for name, x in given.items():
            np.testing.assert_array_equal(np.asarray(file.get_tensor(name)), x)
    ours, metadata = tensors.unpack(path.read_bytes(), path)
    assert metadata == {"note": 'a "quoted" ü'}
    for name, x in given.items():
        np.testing.assert_array_equal(ours[name], x)
        assert ours[name].dtype == x.dtype and ours[name].flags.writeable
    numpy.save_file({"x": given["a.b"]}, tmp_path / "theirs")
    with pytest.raises(FileRefused, match="no checksum"):
        jaxrl.load_policy(tmp_path / "theirs")


# ------------------------------------------------------------------------- agents of one's own


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.tanh(nn.Dense(4)(x))


@struct
class Careless:
    """Looks at all of its state, whatever its action depends on."""

    num_envs: int = static(default=1)
    num_steps: int = static(default=1)

    def init(self, key: jax.Array, spec: Spec) -> dict[str, jax.Array]:
        return {"w": jnp.ones(3), "rest": jnp.ones(3)}

    def act(self, state: Any, obs: Any, key: jax.Array, explore: bool = True) -> ActOut:
        return ActOut((obs @ state["w"] > 0).astype(jnp.int32), state["rest"] * 2)


def test_an_agent_of_ones_own_is_given(tmp_path: Path) -> None:
    spec = Spec(VECTOR, spaces.Discrete(2))
    agent = PPO(actor=Net())
    one = filled(agent, spec)
    path = one.save(tmp_path / "p")
    with pytest.raises(FileRefused, match=r"cannot be built .*agent=\.\.\."):
        jaxrl.load_policy(path)
    again = jaxrl.load_policy(path, agent=agent)
    np.testing.assert_array_equal(play(one), play(again))
    with pytest.raises(ValueError, match=r"agent\.gamma was 0\.99.*, given is 0\.5"):
        jaxrl.load_policy(path, agent=dataclasses.replace(agent, gamma=0.5))
    with pytest.raises(ValueError, match="another agent"):
        jaxrl.load_policy(path, agent=DQN())


def test_an_agent_that_looks_at_everything_is_told() -> None:
    spec = Spec(VECTOR, spaces.Discrete(2))
    one = Policy(Careless(), Careless().init(jax.random.key(0), spec), spec)
    with pytest.raises(TypeError, match=r"Careless\.act looks at parts"):
        one.save("nowhere")


# ------------------------------------------------------------------------------------- suspicion


DANGEROUS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove",
             "os.rename", "os.mkdir", "socket.connect", "pickle.find_class",
             "shutil.rmtree", "ctypes.dlopen")  # fmt: skip
EVENTS: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if EVENTS is None:
        return
    if event in DANGEROUS:
        EVENTS.append(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        EVENTS.append(f"open {arguments[0]}")


@pytest.fixture(scope="module")
def hook() -> None:
    jax.jit(lambda x: x + 1)(1.0).block_until_ready()  # makes the folder of compiled programs
    sys.addaudithook(_audit)  # for good: it looks only while EVENTS is a list


@pytest.fixture
def harmless(hook: None) -> Iterator[None]:
    """Nothing is run, written or removed meanwhile."""
    global EVENTS
    EVENTS = []
    yield
    seen, EVENTS = EVENTS, None
    assert seen == []


def damaged(content: bytes, chance: random.Random) -> Iterator[bytes]:
    """Without end: one kind of damage after the other."""
    size = len(content)
    while True:
        at, count = chance.randrange(size), chance.randrange(1, 40)
        noise = chance.randbytes(count)
        flipped = bytearray(content)
        flipped[at] ^= 1 << chance.randrange(8)
        yield bytes(flipped)
        yield content[:at]  # truncated
        yield content[:at] + noise + content[at:]  # inserted
        yield content[:at] + content[at + count :]  # lost
        yield content[:at] + noise + content[at + count :]  # overwritten
        yield content + noise
        yield chance.randbytes(8) + content[8:]  # the header's length
        yield chance.randrange(size * 2).to_bytes(8, "little") + content[8:]
        yield content[at:] + content[:at]
        yield noise


def test_no_damage_goes_unseen(harmless: None) -> None:
    content, path, seen = saved.packed(policy("PPO")), Path("a/p.safetensors"), 0
    for broken in damaged(content, random.Random(11)):
        if broken != content:
            with pytest.raises(FileRefused, match=r"^a/p\.safetensors cannot be used: "):
                saved.unpacked(broken, path)
            seen += 1
        if seen == 2000:
            break
    for bit in range(0, 8 * len(content), 3):  # one at a time, from the length to the last weight
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FileRefused):
            saved.unpacked(bytes(broken), path)


X = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
META = {"sha256": "0" * 64}


def file(header: Any, data: bytes = bytes(24)) -> bytes:
    """With a checksum that is right: whoever wrote it meant it."""
    text = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    return tensors.sealed(len(text).to_bytes(8, "little") + text + data)


def with_x(**changed: Any) -> bytes:
    return file({"__metadata__": META, "x": X | changed})


WRONG = {
    "F32[2, 4] needs 32": with_x(shape=[2, 4]),
    "has shape [-2, -3]": with_x(shape=[-2, -3]),
    "has shape [True, 6]": with_x(shape=[True, 6]),
    "has shape [2.0, 3]": with_x(shape=[2.0, 3]),
    "has shape 23": with_x(shape="23"),
    "has shape [6, 1, 1, 1": with_x(shape=[6, *[1] * 40]),
    "needs more than 2**63": with_x(shape=[2**40, 2**40]),
    "has shape [92233720368547758080]": with_x(shape=[10 * 2**63]),
    "NaN is no JSON": with_x(shape=[float("nan")]),
    "Infinity is no JSON": with_x(data_offsets=[0, float("inf")]),
    "has dtype 'F3'; known are F64": with_x(dtype="F3"),
    "has dtype '7'": with_x(dtype=7),
    "has 24 bytes; F64[2, 3] needs 48": with_x(dtype="F64"),
    "neither true nor false": file(
        {"__metadata__": META, "x": X | {"dtype": "BOOL", "shape": [24]}}, b"\2" * 24
    ),
    "lies at [0, 48] of 24 bytes": with_x(data_offsets=[0, 48]),
    "lies at [24, 0]": with_x(data_offsets=[24, 0]),
    "lies at [0]": with_x(data_offsets=[0]),
    "begins at byte 4, not at 0": file(
        {"__metadata__": META, "x": X | {"data_offsets": [4, 28]}}, bytes(28)
    ),
    "take 24 bytes, but it has 28": file({"__metadata__": META, "x": X}, bytes(28)),
    "begins at byte 0, not at 24": file({"__metadata__": META, "x": X, "y": X}),
    "and nothing else": with_x(more=1),
    "does not say dtype": file({"__metadata__": META, "x": [X]}),
    "not a JSON object": file([{"__metadata__": META}]),
    "nested too deep": file(
        b'{"__metadata__":{"sha256":"%s"},"x":' % (b"0" * 64)
        + b"[" * 200_000
        + b"]" * 200_000
        + b"}"
    ),
    "a name is repeated": file(b'{"__metadata__":{"sha256":"%s"},"x":1,"x":2}' % (b"0" * 64)),
    "metadata is not text": file({"x": META}),
    "metadata is not text ": file({"__metadata__": META | {"a": 1}}),
    "no checksum": (b'{"__metadata__":{}}').join([(19).to_bytes(8, "little"), b""]),
    "no checksum ": file({"__metadata__": META, "y": {"__metadata__": META}}),
    "JSON cannot be read": file(b'{"__metadata__":{"sha256":"%s"}' % (b"0" * 64), b""),
    "JSON cannot be read ": file(b'{"__metadata__":{"sha256":"%s"},"\xff":1}' % (b"0" * 64), b""),
    "header should have 18,446,744,073,709,551,615 bytes": b"\xff" * 8 + bytes(40),
    "it has 3 bytes": b"abc",
}


@pytest.mark.parametrize("why", WRONG)
def test_a_header_that_lies(why: str, harmless: None) -> None:
    assert tensors.unpack(with_x(), "f")[0]["x"].shape == (2, 3)
    with pytest.raises(FileRefused, match="^f cannot be used: ") as refused:
        tensors.unpack(WRONG[why], "f")
    assert why.strip() in str(refused.value)


# ------------------------------------------------------------------------------------- malice


def resealed(name: str, change: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]) -> bytes:
    """A policy's file, written again after `change(content, arrays)`."""
    arrays, metadata = tensors.unpack(saved.packed(policy(name)), "x")
    content = json.loads(metadata["jaxrl"])
    change(content, arrays)
    return tensors.pack(arrays, {"jaxrl": json.dumps(content)})


NAMES = [
    "os:system", "subprocess:Popen", "builtins:exec", "jaxrl.record:subprocess.run",
    "jaxrl.checkpoint:shutil.rmtree", "jaxrl.cli.parser:main", "jaxrl.cli:main",
    "jaxrl.tensors:put", "jaxrl.envs:make", "jaxrl.networks.modules:np.save", "jax.numpy:save",
    "jax.numpy:load", "numpy:save", "numpy:load", "numpy.ctypeslib:load_library", "pickle:loads",
    "jax.nn:initializers.os", "flax.linen:jit", "flax.linen:module.os.system", "jax:jit",
    "setuptools:setup", "this:d", "antigravity:fly", "__main__:main", "jaxrl.losses:os", "", ":",
    "jaxrl.networks:__builtins__", "jaxrl.agents.policy.ppo:dataclasses", "jaxrl:train",
    "jaxrl.networks.modules:spaces",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_other_name_is_looked_up(name: str, harmless: None) -> None:
    before = set(sys.modules)
    for said in (
        {"name": name},
        {"partial": {"name": name}, "args": ["touch", "x"], "keywords": {}},
        {"class": name, "fields": {}},
        {"class": name, "member": "A"},
        {"class": name, "make": "CartPole-v1", "constants": {}},
    ):

        def change(content: Any, arrays: Any, said: Any = said) -> None:
            content["agent"]["fields"]["actor"]["fields"]["activation"] = said

        with pytest.raises(FileRefused, match="cannot be built"):
            saved.unpacked(resealed("PPO", change), Path("p"))
    assert not {m for m in set(sys.modules) - before if not m.startswith(("jax", "flax", "optax"))}


def test_the_names_that_policies_have_are_allowed() -> None:
    for name in ("jax.nn:relu", "jax.numpy:sin", "jaxrl.losses.value:huber", "flax.linen:Dense"):
        assert allowed.find(name) is describe.find(name)


def _drop(content: Any, arrays: Any) -> None:
    del arrays["params.actor.params.log_std"]


def _add(content: Any, arrays: Any) -> None:
    arrays["params.critic.kernel"] = np.zeros(3, np.float32)


def _double(content: Any, arrays: Any) -> None:
    arrays["params.actor.params.log_std"] = np.zeros(2, np.float64)


def _longer(content: Any, arrays: Any) -> None:
    arrays["params.actor.params.log_std"] = np.zeros(3, np.float32)


def _back(content: Any, arrays: Any) -> None:
    arrays["updates.value"] = np.int32(-1)


def _set(*path: Any) -> Callable[[Any, Any], None]:
    *path, value = path

    def change(content: Any, arrays: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]

SPACE = ("spec", "fields", "action_space", "fields")
SEEN = ("spec", "fields", "obs_space", "fields")
ACTOR = ("agent", "fields", "actor", "fields")

LIES = {
    "it lacks params.actor.params.log_std": _drop,
    "it has also params.critic.kernel": _add,
    "is float64[2], its agent needs float32[2]": _double,
    "is float32[3], its agent needs float32[2]": _longer,
    "it counts -1 steps": _back,
    "no policy of jaxrl": _set("kind", "jaxrl checkpoint"),
    "it has format 2": _set("format", 2),
    "it does not say its agent": lambda content, arrays: content.pop("agent"),
    "has no field 'speed'": _set("agent", "fields", "speed", 1),
    "agent is int": _set("agent", 3),
    "is MLP, which does not act": lambda c, a: c.update(agent=c["agent"]["fields"]["actor"]),
    "gamma=array()) must be at most 1": _set(
        "agent", "fields", "gamma", {"array": "float32", "shape": [], "values": [2.0]}
    ),
    "num_envs=0": _set("agent", "fields", "num_envs", 0),
    "num_envs='2'": _set("agent", "fields", "num_envs", "2"),
    "its agent needs float32[1000000000000, 2]": _set(*ACTOR, "hidden", [10**12]),
    "do not fit together": _set(*ACTOR, "hidden", [-8]),
    "do not fit together ": _set(*ACTOR, "hidden", ["8"]),
    "do not fit together  ": _set(*ACTOR, "activation", 3),
    "do not fit together   ": _set(*ACTOR, "activation", {"name": "jaxrl.networks.modules:dense"}),
    "describes nothing": _set(*ACTOR, "activation", {"eval": "1"}),
    "action_space has shape": _set(*SPACE, "shape", [2, "3"]),
    "action_space has shape ": _set(*SPACE, "shape", [2**20, 2**20]),
    "action_space has dtype": _set(*SPACE, "dtype", {"dtype": "object"}),
    "action_space has dtype ": _set(*SPACE, "dtype", "float32"),
    "action_space has low": _set(*SPACE, "low", [1.0, 2.0, 3.0]),
    "action_space has high": _set(*SPACE, "high", {"float": "nan"}),
    "obs_space is 7": _set("spec", "fields", "obs_space", 7),
    "obs_space is ": _set("spec", "fields", "obs_space",
                          {"class": "jaxrl.spaces:Discrete", "fields": {"n": -1}}),
    "obs_space is  ": _set("spec", "fields", "obs_space",
                           {"class": "jaxrl.spaces:Dict", "fields": {"items": []}}),
    "obs_space has 3": _set("spec", "fields", "obs_space",
                            {"class": "jaxrl.spaces:Dict", "fields": {"items": [3]}}),
    "is no Spec": _set("spec", [1]),
    "its spaces is wrong": _set("spec", {"dtype": "no such"}),
    "time_limit=-4": _set("spec", "fields", "time_limit", -4),
    "steps=x": _set("spec", "fields", "steps", "x"),
    "it cannot be ": _set("agent", DEEP),
    "its agent needs": _set(*SEEN, "shape", [4]),
}  # fmt: skip


@pytest.mark.parametrize("why", LIES)
def test_what_does_not_fit_together(why: str, harmless: None) -> None:
    with pytest.raises(FileRefused, match="^p cannot be used: ") as refused:
        saved.unpacked(resealed("PPO tanh", LIES[why]), Path("p"))
    if not why.startswith("it cannot"):
        assert why.strip() in str(refused.value)


def places(said: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        said.items()
        if isinstance(said, dict)
        else enumerate(said)
        if isinstance(said, list)
        else ()
    )
    return [path] * bool(path) + [p for k, x in inside for p in places(x, (*path, k))]


JUNK = [
    None, True, -1, 0, 10**30, 0.5, "", "x" * 10_000, [], {}, [[]], {"float": "nan"}, {"name": 3},
    {"float": "1" * 10_000}, {"array": "float32", "shape": [10**9, 10**9], "values": [1.0]},
    {"array": "object", "shape": [], "base64": "gASVAAAA"}, {"opaque": "os:system"},
    {"list": [1]}, {"dict": {"a": 1}}, {"dtype": "float32"},
    {"partial": {"name": "jax.nn:relu"}, "args": [], "keywords": {}},
]  # fmt: skip


def test_any_part_of_it_may_be_junk(harmless: None) -> None:
    """Either it is refused, or what was changed does not matter to acting."""
    chance = random.Random(5)
    arrays, metadata = tensors.unpack(saved.packed(policy("PPO tanh")), "x")
    everywhere = places(json.loads(metadata["jaxrl"]))
    refused = 0
    for _ in range(1000):
        content = json.loads(metadata["jaxrl"])
        *path, last = chance.choice(everywhere)
        place = content
        for step in path:
            place = place[step]
        place[last] = chance.choice(JUNK)
        broken = tensors.pack(arrays, {"jaxrl": json.dumps(content)})
        try:
            again = saved.unpacked(broken, Path("p"))
        except FileRefused as error:
            assert str(error).startswith("p cannot be used: ")
            refused += 1
        else:
            assert isinstance(again, Policy)
    assert refused > 500


# -------------------------------------------------------------------------------------- the disk


def test_what_was_there_stays_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = policy("DQN").save(tmp_path / "deep" / "folder" / "p")
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        policy("PPO").save(path)
    assert path.read_bytes() == before
    assert [x.name for x in path.parent.iterdir()] == ["p"]
    with pytest.raises(IsADirectoryError, match="is a folder"):
        policy("PPO").save(tmp_path)
    with pytest.raises(FileNotFoundError):
        jaxrl.load_policy(tmp_path / "nothing")


def test_a_policy_is_read_in_another_process(tmp_path: Path) -> None:
    path = policy("PPO").save(tmp_path / "p")
    code = (
        "import sys, numpy as np, jaxrl\n"
        "policy = jaxrl.load_policy(sys.argv[1])\n"
        "print(np.asarray(policy(np.ones((2, 3), np.float32))).tolist())"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    ours = policy("PPO")(np.ones((2, 3), np.float32))
    assert json.loads(ran.stdout) == np.asarray(ours).tolist()


def test_the_memory_of_a_critic_is_not_kept() -> None:
    """Of a recurrent policy with a recurrent critic, which only learning asks."""
    one = policy("PPO recurrent")
    again = saved.unpacked(saved.packed(one), Path("p"))
    assert jax.tree.leaves(one.state.params["critic"])
    assert not jax.tree.leaves(again.state.params["critic"])
    assert rollout.initial_memory(again.agent, 2) is not None
