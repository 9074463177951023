"""Saving and going on: the same bits, nothing lost, and every refusal says why."""

import dataclasses
import errno
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import checkpoint, describe, keeper
from jaxrl.checkpoint import Folder
from jaxrl.struct import param, static, struct
from jaxrl.types import PyTree

ENV = jaxrl.envs.make("CartPole-v1")
AGENT = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, lr=1e-3)
KEY = jax.random.key(3)
STEPS = 3000  # 93 iterations: the last point of the curve is a partial one


def assert_same(a: PyTree, b: PyTree) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def assert_same_result(a: jaxrl.Result, b: jaxrl.Result) -> None:
    assert_same((a.state, a.metrics, a.steps), (b.state, b.metrics, b.steps))


def train(path: Path | None = None, agent: Any = AGENT, key: Any = KEY, **options: Any) -> Any:
    options = {"steps": STEPS, "log_every": 320, **options}
    if path is not None:
        options = {"checkpoint": path, "every": 640, **options}
    return jaxrl.train(agent, options.pop("env", ENV), key, **options)


def steps_in(path: Path) -> list[int]:
    return Folder(path).steps()


def forget(path: Path, newer_than: int) -> None:
    """As if the process had died right after that step."""
    folder = Folder(path)
    for step in folder.steps():
        if step > newer_than:
            for file in sorted(folder.at(step).rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            folder.at(step).rmdir()


@pytest.fixture(scope="module")
def straight() -> jaxrl.Result:
    return train()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run of 3000 steps that died after 1920, with checkpoints at 1280 and 1920."""
    path = tmp_path / "run"
    train(path, checkpoint=jaxrl.Checkpoints(path, latest=4, best=0))
    forget(path, 1920)
    assert steps_in(path) == [1280, 1920]
    return path


# ---------------------------------------------------------------------------------- going on


def test_saving_changes_nothing(straight: jaxrl.Result, tmp_path: Path) -> None:
    assert_same_result(train(tmp_path), straight)
    assert steps_in(tmp_path)[-1] == 93 * 32


def test_resumed_is_straight(straight: jaxrl.Result, saved: Path) -> None:
    assert_same_result(train(saved, resume=True), straight)


def test_from_the_folder_alone(straight: jaxrl.Result, saved: Path) -> None:
    assert_same_result(jaxrl.resume(saved), straight)
    assert steps_in(saved)[-1] == 93 * 32


def test_resume_begins_where_there_is_nothing(straight: jaxrl.Result, tmp_path: Path) -> None:
    assert_same_result(train(tmp_path / "new" / "folder", resume=True), straight)


def test_a_finished_run_comes_back_at_once(straight: jaxrl.Result, tmp_path: Path) -> None:
    train(tmp_path)
    again = jaxrl.resume(tmp_path)
    assert_same_result(again, straight)
    assert again.timing.steps == 0 and again.compile_seconds == 0


@functools.cache
def others() -> dict[str, tuple[Any, Any, int]]:
    from jaxrl.priority import Prioritized

    small = jaxrl.networks.MLP((16,))
    dqn = jaxrl.DQN(
        num_envs=2,
        capacity=300,
        learning_starts=40,
        batch_size=16,
        sampler=Prioritized(),
        torso=small,
    )
    sac = jaxrl.SAC(
        num_envs=2, capacity=300, learning_starts=40, batch_size=16, actor=small, critic=small
    )
    normalized = jaxrl.NormalizeObs(jaxrl.NormalizeReward(AGENT))
    lstm = jaxrl.networks.LSTM(8)
    recurrent = dataclasses.replace(AGENT, actor=lstm, critic=lstm)
    r2d2 = jaxrl.R2D2(
        num_envs=2,
        num_steps=4,
        burn_in=2,
        length=6,
        capacity=320,
        learning_starts=40,
        batch_size=8,
        sampler=Prioritized(),
        torso=jaxrl.networks.GRU(8, torso=small),
    )
    return {
        "dqn": (dqn, ENV, 800),
        "sac": (sac, jaxrl.envs.make("Pendulum-v1"), 800),
        "ppo, normalised": (normalized, ENV, 2000),
        "ppo, recurrent": (recurrent, ENV, 2000),
        "r2d2": (r2d2, ENV, 800),
    }


@pytest.mark.parametrize("runs", [None, 3])
@pytest.mark.parametrize("name", ["dqn", "sac", "ppo, normalised", "ppo, recurrent", "r2d2"])
def test_every_agent_goes_on(name: str, runs: int | None, tmp_path: Path) -> None:
    agent, env, steps = others()[name]
    key = KEY if runs is None else jax.random.split(KEY, runs)
    options: dict[str, Any] = {"steps": steps, "log_every": steps // 4}
    whole = jaxrl.train(agent, env, key, **options)
    train(tmp_path, agent, key, env=env, every=steps // 4, **options)
    forget(tmp_path, steps * 3 // 5)
    assert steps_in(tmp_path)[-1] < steps
    assert_same_result(jaxrl.resume(tmp_path), whole)


def test_a_stack_of_agents(tmp_path: Path) -> None:
    stack = dataclasses.replace(AGENT, lr=jnp.array([1e-2, 1e-3, 1e-4]))
    whole = train(agent=stack)
    train(tmp_path, stack)
    forget(tmp_path, 2000)
    assert_same_result(jaxrl.resume(tmp_path), whole)


def test_evaluations_go_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"evaluate_every": 960, "evaluate_episodes": 4}
    whole = train(**options)
    train(tmp_path, **options)
    forget(tmp_path, 2000)
    assert_same_result(jaxrl.resume(tmp_path), whole)


DEVICES = """
import sys, jax, jaxrl, numpy as np
agent = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, lr=1e-3)
env = jaxrl.envs.make("CartPole-v1")
result = {}
assert jax.local_device_count() == int(sys.argv[2])
np.savez(sys.argv[3], *jax.tree.leaves((result.state, result.metrics)))
"""


@pytest.mark.parametrize(
    "devices", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_on_another_number_of_devices(devices: int, tmp_path: Path) -> None:
    keys = jax.random.split(KEY, 3)  # on two devices the fourth lane is padding
    agent = dataclasses.replace(AGENT, anneal_lr=jaxrl.optim.constant)
    train(tmp_path / "run", agent, keys)
    forget(tmp_path / "run", 2560)
    # What is read is the same; how it goes on differs in the last digits, because a device with
    # other lanes runs another program.
    for call, expected, atol in [
        ("jaxrl.restore(sys.argv[1])", jaxrl.restore(tmp_path / "run"), 0),
        ("jaxrl.resume(sys.argv[1], steps=2880)", train(agent=agent, key=keys, steps=2880), 1e-4),
    ]:
        code = DEVICES.replace("{}", call)
        arguments = [str(tmp_path / "run"), str(devices), str(tmp_path / "out.npz")]
        environment = {**os.environ, "JAXRL_CPU_DEVICES": str(devices)}
        subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)
        with np.load(tmp_path / "out.npz") as out:
            got = [out[name] for name in out.files]
        for x, y in zip(jax.tree.leaves((expected.state, expected.metrics)), got, strict=True):
            np.testing.assert_allclose(np.asarray(x), y, rtol=atol / 10, atol=atol)


def test_no_second_compilation_when_resumed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = 0
    update = jaxrl.PPO.update

    def counted(self: jaxrl.PPO, *args: object) -> object:
        nonlocal traces
        traces += 1
        return update(self, *args)  # pyright: ignore

    monkeypatch.setattr(jaxrl.PPO, "update", counted)
    train(resume=False)
    before = traces
    forget(saved, 1280)
    train(saved, resume=True)
    assert traces - before <= 1  # the shapes of the state, nothing else


def test_longer(tmp_path: Path) -> None:
    # Nothing here depends on the length of the run, so the longer run is the straight one.
    agent = dataclasses.replace(AGENT, anneal_lr=jaxrl.optim.constant)
    train(tmp_path, agent, steps=1000)
    assert steps_in(tmp_path)[-1] == 992  # in the midst of a point
    longer = jaxrl.resume(tmp_path, steps=2000)
    whole = train(agent=agent, steps=2000)
    assert_same(longer.state.params, whole.state.params)
    np.testing.assert_array_equal(longer.steps, [320, 640, 960, 992, 1280, 1600, 1920, 1984])
    points, same = np.array([0, 1, 2, 5, 6, 7]), np.array([0, 1, 2, 4, 5, 6])
    for name, row in whole.metrics.items():
        np.testing.assert_array_equal(longer.metrics[name][points], row[same])


def test_shorter_than_what_was_made(saved: Path) -> None:
    with pytest.raises(
        ValueError, match=r"steps=1_000 is less than the 1_920 .* write steps=3_000"
    ):
        jaxrl.resume(saved, steps=1000)


def test_restore_looks_without_going_on(tmp_path: Path) -> None:
    whole = train(tmp_path, checkpoint=jaxrl.Checkpoints(tmp_path, latest=9))
    half = jaxrl.restore(tmp_path, 1280)
    np.testing.assert_array_equal(half.steps, whole.steps[:4])
    assert_same(half.metrics, {name: row[:4] for name, row in whole.metrics.items()})
    assert int(half.state.updates.value) == 40
    assert half.policy(jnp.zeros(4)).shape == ()
    assert_same_result(jaxrl.restore(tmp_path), whole)
    with pytest.raises(ValueError, match="step=7 is not saved .* 1_280"):
        jaxrl.restore(tmp_path, 7)


# ------------------------------------------------------------------------------ what is kept


def test_latest_and_best_are_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.open()
    for step, score in enumerate([1.0, 9.0, 3.0, None, 4.0, 2.0, 5.0]):
        folder.write(step, {"score": score}, {"x": np.arange(3)})
        folder.prune(latest=2, best=2)
    # Plain orbax with a best function keeps the two best and drops the newest.
    assert folder.steps() == [1, 5, 6]
    assert folder.best() == 1
    folder.write(7, {"score": 0.0}, {"x": np.arange(3)})
    folder.prune(latest=1, best=2)
    assert folder.steps() == [1, 6, 7]


def test_best_of_a_run(tmp_path: Path) -> None:
    options = jaxrl.Checkpoints(tmp_path, latest=1, best=1, metric="value/mean")
    whole = train(tmp_path, checkpoint=options, every=320)
    curve = np.asarray(whole.metrics["value/mean"])
    best = int(whole.steps[curve.argmax()])
    assert steps_in(tmp_path) == sorted({best, 93 * 32})
    assert int(jaxrl.restore(tmp_path, "best").steps[-1]) == best
    with pytest.raises(ValueError, match=r"metric='value'.*no such metric.*value/mean"):
        train(tmp_path / "b", checkpoint=jaxrl.Checkpoints(tmp_path / "b", metric="value"))


def test_every_is_in_steps(tmp_path: Path) -> None:
    keep = jaxrl.Checkpoints(tmp_path, latest=100)
    train(checkpoint=keep, every=640)
    assert steps_in(tmp_path) == [640, 1280, 1920, 2560, 2976]
    # Without `log_every` the points of the curves move together to meet it.
    keep = jaxrl.Checkpoints(tmp_path / "b", latest=200)
    jaxrl.train(AGENT, ENV, KEY, steps=64 * 150, checkpoint=keep, every=64)
    assert len(steps_in(tmp_path / "b")) == 150


# ---------------------------------------------------------------------------------- refusals


def newest(path: Path) -> Path:
    return Folder(path).at(steps_in(path)[-1])


def big_file(place: Path) -> Path:
    return max((x for x in place.rglob("*") if x.is_file()), key=lambda x: x.stat().st_size)


def truncate(place: Path) -> None:
    file = big_file(place / "arrays")
    file.write_bytes(file.read_bytes()[:-10])


def flip(place: Path) -> None:
    file = big_file(place / "arrays")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove_file(place: Path) -> None:
    big_file(place / "arrays").unlink()


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def corrupt(place: Path) -> None:
        file = place / "manifest.json"
        manifest = json.loads(file.read_text())
        change(manifest)
        file.write_text(json.dumps(manifest))

    return corrupt


def no_manifest(place: Path) -> None:
    (place / "manifest.json").unlink()


def half_manifest(place: Path) -> None:
    text = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(text[: len(text) // 2])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, r"has [\d,]+ bytes instead of [\d,]+"),
    "one bit": (flip, "does not have its checksum"),
    "file gone": (remove_file, "cannot be read: No such file"),
    "no manifest": (no_manifest, "no manifest.json: it was not written by jaxrl"),
    "half manifest": (half_manifest, "manifest.json is not readable"),
    "changed manifest": (
        rewrite(lambda m: m["content"]["agent"]["fields"].update(lr=0.5)),
        "manifest.json does not have its checksum",
    ),
    "foreign": (rewrite(lambda m: m.update(kind="cake")), "not that of a jaxrl checkpoint"),
    "not an object": (lambda p: (p / "manifest.json").write_text("[1]") and None, "not that of a"),
    "older": (
        rewrite(lambda m: m.update(format=0)),
        r"format 0, older than format 2 .*go on with the version that wrote it \(0.1.0\)",
    ),
    "newer": (rewrite(lambda m: m.update(format=99)), "format 99, other than format 2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage: str, saved: Path) -> None:
    corrupt, message = DAMAGE[damage]
    corrupt(newest(saved))
    with pytest.raises(jaxrl.CheckpointError, match=message) as caught:
        train(saved, resume=True)
    assert "step-000000001920" in str(caught.value) and "newest good" in str(caught.value)
    with pytest.raises(jaxrl.CheckpointError, match=message):
        jaxrl.resume(saved)
    assert steps_in(saved) == [1280, 1920]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "no manifest", "older"])
def test_the_newest_good_one_when_asked(damage: str, straight: jaxrl.Result, saved: Path) -> None:
    DAMAGE[damage][0](newest(saved))
    with pytest.warns(RuntimeWarning, match=DAMAGE[damage][1] + r".* Going on from step 1,280"):
        again = jaxrl.resume(saved, newest_good=True)
    assert_same_result(again, straight)
    assert Folder(saved).at(1920).with_suffix(".bad-0").exists()  # set aside, not deleted
    assert_same_result(jaxrl.resume(saved), straight)


def test_none_is_good(saved: Path) -> None:
    for step in steps_in(saved):
        flip(Folder(saved).at(step))
    with pytest.raises(jaxrl.CheckpointError, match="none of the 2 checkpoints .* is whole"):
        train(saved, resume="newest good")


def test_fuzzed_manifests_never_get_through(saved: Path) -> None:
    file = newest(saved) / "manifest.json"
    whole = file.read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for i in chance.integers(0, len(data), 3):
            data[i] = chance.integers(0, 256)
        if bytes(data) == whole:
            continue
        file.write_bytes(data)
        with pytest.raises(jaxrl.CheckpointError):
            Folder(saved).content(1920)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(jaxrl.CheckpointError, match="holds no checkpoints"):
        jaxrl.resume(tmp_path / "nowhere")


def test_an_old_run_is_not_overwritten(saved: Path) -> None:
    with pytest.raises(ValueError, match="up to step 1,920 already: write resume=True"):
        train(saved)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "42").mkdir(parents=True)
    with pytest.raises(jaxrl.CheckpointError, match="holds '42', which jaxrl did not write"):
        train(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"agent": dataclasses.replace(AGENT, lr=2e-3)}, "agent.lr was 0.001, given is 0.002"),
        (
            {"agent": dataclasses.replace(AGENT, actor=jaxrl.networks.MLP((32, 64)))},
            r"agent.actor.hidden was \(64, 64\), given is \(32, 64\)",
        ),
        (
            {"agent": dataclasses.replace(AGENT, anneal_lr=jaxrl.optim.constant)},
            "agent.anneal_lr was jaxrl.optim.linear, given is jaxrl.optim.constant",
        ),
        ({"agent": jaxrl.DQN()}, r"agent was PPO\(.*given is DQN\("),
        (
            {"env": jaxrl.envs.make("CartPole-v1", gravity=5.0)},
            "env.env.gravity was 9.8, given is 5.0",
        ),
        ({"env": jaxrl.envs.make("CartPole-v1", max_steps=9)}, "env.max_steps was 500, given is 9"),
        ({"key": jax.random.key(4)}, "key was another one"),
        ({"key": jax.random.split(KEY, 2)}, "keys of one run, given are those of 2 runs"),
        ({"log_every": 640}, "log_every was 320, given is 640"),
        ({"reset_every": 1}, "reset_every was 16, given is 1"),
    ],
)
def test_another_configuration(change: dict[str, Any], message: str, saved: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(saved, resume=True, **change)
    assert steps_in(saved) == [1280, 1920]


def test_equal_settings_written_differently(straight: jaxrl.Result, saved: Path) -> None:
    same = dataclasses.replace(AGENT, lr=np.float32(1e-3), gamma=jnp.array(0.99))
    assert_same_result(train(saved, same, resume=True), straight)


def test_changed_code_is_noticed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = jaxrl.PPO.init

    def other(self: jaxrl.PPO, *args: Any) -> Any:
        state = init(self, *args)
        return dataclasses.replace(state, opt=(state.opt, jnp.zeros(3)))

    monkeypatch.setattr(jaxrl.PPO, "init", other)
    with pytest.raises(jaxrl.CheckpointError, match=r"run.state.opt\S* should be .*code changed"):
        train(saved, resume=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 100}, 'every=100 says nothing without a folder: write checkpoint="runs/x"'),
        ({"resume": True}, "resume=True says nothing without a folder"),
        ({"checkpoint": 3}, "checkpoint=3 must be a folder"),
        ({"checkpoint": "x", "every": 0}, "every=0 must be at least 1"),
        ({"checkpoint": "x", "every": 100}, "every=100 is less than log_every=320"),
        (
            {"checkpoint": "x", "resume": "newest"},
            "resume='newest' must be True, False or \"newest",
        ),
        ({"checkpoint": jaxrl.Checkpoints("x", latest=0)}, "latest=0 must be at least 1"),
    ],
)
def test_bad_arguments(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message):
        train(**options)
    assert not (tmp_path / "x").exists()


def test_not_inside_jit(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="checkpoint= needs to look at the run from outside"):
        jax.jit(lambda key: train(tmp_path, key=key))(KEY)


# -------------------------------------------------------------------------- disks and folders


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(jaxrl.CheckpointError, match="nothing can be saved there: Not a directory"):
        train(tmp_path / "file")


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        jaxrl.CheckpointError, match=r"saved there: Permission denied .*checkpoints"
    ):
        train(tmp_path)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Files beyond a size cannot be written: the kernel refuses, as it does on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


# Threads of Orbax say so too, each for itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk(
    straight: jaxrl.Result, saved: Path, small_disk: Callable[[int], None]
) -> None:
    small_disk(2000)
    try:
        with pytest.raises(jaxrl.CheckpointError) as caught:
            train(saved, resume=True)
    finally:
        small_disk(resource.RLIM_INFINITY)
    message = str(caught.value)
    assert "step 2,560 could not be saved" in message and "File too large" in message
    assert "untouched (the newest is that of step 1,920)" in message
    assert caught.value.result.steps[-1] >= 2560  # what was learned is not lost
    assert steps_in(saved) == [1280, 1920]
    assert not list(saved.rglob("*.saving"))
    assert_same_result(jaxrl.resume(saved), straight)


def test_a_save_that_dies_half_way(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_file_digest", full)
    before = sorted(x.name for x in (saved / "checkpoints").iterdir())
    with pytest.raises(jaxrl.CheckpointError, match="No space left on device"):
        Folder(saved).write(5000, {}, {"x": np.zeros(3)})
    assert sorted(x.name for x in (saved / "checkpoints").iterdir()) == before


def test_leftovers_of_a_killed_process_are_removed(straight: jaxrl.Result, saved: Path) -> None:
    for name in ("step-000000002560.saving", "step-000000000640.deleting"):
        (saved / "checkpoints" / name / "arrays").mkdir(parents=True)
    assert_same_result(train(saved, resume=True), straight)
    assert all(not x.suffix for x in (saved / "checkpoints").iterdir())


# ------------------------------------------------------------------------------------ signals

INTERRUPTED = """
import sys, threading, time, os, signal, jax, jaxrl
from pathlib import Path
from jaxrl import cache
cache.enable()
def strike():
    while not [x for x in Path(sys.argv[1]).glob("checkpoints/step-*") if not x.suffix]:
        time.sleep(0.01)
    os.kill(os.getpid(), int(sys.argv[2]))
threading.Thread(target=strike, daemon=True).start()
agent = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, lr=1e-3)
env = jaxrl.envs.make("CartPole-v1")
try:
    jaxrl.train(agent, env, jax.random.key(3), steps=3_000_000, log_every=320,
                checkpoint=sys.argv[1], every=6400)
finally:
    print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_saves_and_says_how_to_go_on(number: int, status: int, tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, path, str(int(number))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.split() == ["True"]  # handlers are as they were
    assert f"jaxrl.resume({path!r})" in done.stderr
    step = steps_in(Path(path))[-1]
    assert f"Saved after {step:,} of 3,000,000 steps" in done.stderr
    Folder(Path(path)).verify(step)
    assert jaxrl.resume(path, steps=step + 320).steps[-1] == step + 320


def test_handlers_are_left_alone_outside_the_main_thread(tmp_path: Path) -> None:
    seen: list[Any] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: seen.append(train(tmp_path, steps=640)))
    thread.start()
    thread.join()
    assert len(seen) == 1 and signal.getsignal(signal.SIGTERM) is before


def test_unnamed_parts_are_asked_for(straight: jaxrl.Result, tmp_path: Path) -> None:
    agent = dataclasses.replace(AGENT, anneal_clip=lambda share: jnp.ones_like(share))
    train(tmp_path, agent)
    forget(tmp_path, 2000)
    content = Folder(tmp_path).content(steps_in(tmp_path)[-1])
    assert not keeper.rebuildable(content)
    with pytest.raises(
        jaxrl.CheckpointError, match=r"agent\.anneal_clip is .*<lambda>, which has no name.*agent="
    ):
        jaxrl.resume(tmp_path)
    again = jaxrl.resume(tmp_path, agent=agent)
    assert_same(again.state, straight.state)


# -------------------------------------------------------------------------------- descriptions


class Torso(nn.Module):
    width: int = 3


@struct
class Mine:
    rate: Any = param("", default=0.5)
    torso: nn.Module = static("", default=Torso())
    extras: Any = static("", default=(1, (2.5, None), "text", float("inf")))
    tree: Any = param("", default=None)


def round_trip(value: Any) -> Any:
    said = keeper.described(value)
    built = describe.build(said, "x")
    assert keeper.described(built) == said
    assert jax.tree.structure(built) == jax.tree.structure(value)
    assert_same(jax.tree.leaves(built), jax.tree.leaves(value))
    return built


@pytest.mark.parametrize(
    "value",
    [
        jaxrl.PPO(),
        jaxrl.DQN(head=jaxrl.networks.Dueling),
        jaxrl.SAC(target_entropy=-3.0),
        jaxrl.R2D2(torso=jaxrl.networks.LSTM(8, torso=jaxrl.networks.MLP((4,)))),
        jaxrl.envs.SelectObs(ENV, (0, 2)),
        jaxrl.NormalizeObs(jaxrl.NormalizeReward(jaxrl.PPO(lr=jnp.arange(40.0)))),
        jaxrl.envs.make("gymnax/CartPole-v1", gravity=5.0),
        dataclasses.replace(ENV, env=dataclasses.replace(ENV.env, gravity=jnp.float32(5))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_described_and_built(value: Any) -> None:
    round_trip(value)


@pytest.mark.parametrize("name", jaxrl.envs.names())
def test_every_environment_is_described_and_built(name: str) -> None:
    round_trip(jaxrl.envs.make(name))


def test_nested_values() -> None:
    tree = {"a": [1, 2.0], "b": (np.float32(3), jnp.zeros((2, 0))), "c": jnp.array([1.0, np.nan])}
    built = round_trip(Mine(tree=tree, torso=Torso(5)))
    assert built.torso.width == 5 and built.extras == (1, (2.5, None), "text", float("inf"))
    assert isinstance(built.tree["a"], list)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "posix:system",
        "subprocess:Popen",
        "builtins:eval",
        "builtins:exec",
        "importlib:import_module",
        "jaxrl.describe:importlib.import_module",
        "jaxrl.describe:sys.exit",
        "numpy:os.system",
        "jaxrl.checkpoint:shutil.rmtree",
        "jaxrl.checkpoint:os",
        "nowhere:x",
        "os",
        "../x:y",
        7,
    ],
)
def test_what_a_file_may_not_name(name: Any) -> None:
    for said in ({"name": name}, {"class": name, "fields": {}}):
        with pytest.raises(describe.NotDescribed):
            describe.build(said, "agent")


def test_only_dataclasses_are_built() -> None:
    with pytest.raises(describe.NotDescribed, match="not a jaxrl.struct"):
        describe.build({"class": "jaxrl.checkpoint:Folder", "fields": {"path": "x"}}, "agent")
    with pytest.raises(describe.NotDescribed, match="has no field 'speed' any more"):
        describe.build({"class": "jaxrl:PPO", "fields": {"speed": 1}}, "agent")


# --------------------------------------------------------------------------------------- docs


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    names: dict[str, Any] = {}
    blocks = page.read_text().split("```python\n")[1:]
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block.partition("```")[0], str(page), "exec"), names)


def test_arrays_of_every_kind_come_back(tmp_path: Path) -> None:
    """Small ones are written together: none may take another's bytes, type or shape."""
    folder = Folder(tmp_path)
    folder.open()
    arrays = {
        "counter": np.int32(7)[None].reshape(()),
        "flags": np.array([True, False, True]),
        "large": np.arange(2**15, dtype=np.float32).reshape(128, 256),
        "half": np.asarray(jnp.arange(5, dtype=jnp.bfloat16)),
        "nothing": np.zeros((0, 3), np.float32),
        "key": np.array([1, 2**32 - 1], np.uint32),
        "just small": np.full(2**16 - 8, 3, np.uint8),
        "just large": np.full((2, 2**12), -1.5),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    folder.write(1, {}, arrays)
    _, found = folder.read(1)
    assert list(found) == list(arrays)
    for name, x in arrays.items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape
        np.testing.assert_array_equal(found[name], x)
    assert len(list((folder.at(1) / "arrays").rglob("*"))) < 20
    folder.write(2, {}, {"large": arrays["large"]})  # none that is small
    np.testing.assert_array_equal(folder.read(2)[1]["large"], arrays["large"])
