"""Films of episodes: the right episode, whole files, and plain words where something is missing."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxrl
from jaxrl import episode, networks, video

CARTPOLE = jaxrl.envs.make("CartPole-v1")
AGENT = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=1)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def runs() -> jaxrl.Result:
    return jaxrl.train(AGENT, CARTPOLE, jax.random.split(KEY, 2), steps=256)


def always_right(obs: jax.Array) -> jax.Array:
    return jnp.ones(obs.shape[0], jnp.int32)


def has_ffmpeg() -> bool:
    try:
        video._ffmpeg()
    except ModuleNotFoundError:
        return False
    return True


def test_the_film_shows_what_evaluate_plays(runs: jaxrl.Result, tmp_path: Path) -> None:
    for run in (0, 1):
        key = jax.random.key(7 + run)
        got = jaxrl.evaluate(runs[run], CARTPOLE, episodes=1, key=key)
        film = runs[run].video(tmp_path / f"{run}.gif", key=key, max_steps=600)
        assert (film.total, film.steps) == (got.returns[0, 0], got.lengths[0, 0])
        assert film.over
        image: Any
        with Image.open(film.path) as image:
            assert image.n_frames == film.steps + 1
            assert image.size == (480, 200 + video.STRIP)
            assert image.info["duration"] == 20 and image.info["loop"] == 0  # 50 per second
            image.seek(film.steps)
            assert image.info["duration"] == 1000


def test_the_frames_of_a_gif_are_the_pictures(tmp_path: Path) -> None:
    frames = list(episode.frames(always_right, CARTPOLE, key=KEY))
    film = video.record(always_right, tmp_path / "a.gif", CARTPOLE, key=KEY, caption=False)
    image: Any
    with Image.open(film.path) as image:
        for i in (0, film.steps // 2, film.steps):
            image.seek(i)
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - frames[i].picture).max() < 40  # colours of edges are few
            assert np.abs(shown - frames[i].picture).mean() < 0.1  # those of areas are exact


def test_captions_say_step_and_return() -> None:
    picture = np.zeros((20, 200, 3), np.uint8)
    one = video.captioned(episode.Frame(picture, 3, 2.5, False))
    other = video.captioned(episode.Frame(picture, 3, 7.5, False))
    assert one.shape == (20 + video.STRIP, 200, 3)
    np.testing.assert_array_equal(one[video.STRIP :], picture)
    left, right = np.split((one != other)[: video.STRIP].any((0, 2)), 2)
    assert not left.any() and right.any()


def test_an_episode_that_does_not_end(tmp_path: Path) -> None:
    pendulum = jaxrl.envs.make("Pendulum-v1", max_steps=None)
    film = video.record(
        lambda obs: jnp.zeros((obs.shape[0], 1)), tmp_path / "p.gif", pendulum, max_steps=5, fps=10
    )
    assert (film.steps, film.over, film.fps) == (5, False, 10)
    assert "stopped before its end" in repr(film)
    assert film._repr_html_().startswith('<img alt="an episode" src="data:image/gif;base64,R0lG')


def test_a_policy_that_remembers(tmp_path: Path) -> None:
    env = jaxrl.envs.make("TMaze-v0", length=3)
    agent = jaxrl.R2D2(
        torso=networks.GRU(8),
        num_envs=2,
        length=4,
        burn_in=2,
        batch_size=2,
        capacity=256,
        learning_starts=16,
    )
    run = jaxrl.train(agent, env, KEY, steps=64)
    got = jaxrl.evaluate(run, env, episodes=1, key=KEY)
    film = run.video(tmp_path / "m.gif", key=KEY)
    assert (film.total, film.steps) == (
        pytest.approx(got.returns[0, 0], abs=1e-5),
        got.lengths[0, 0],
    )


def test_exploring_is_another_episode(runs: jaxrl.Result, tmp_path: Path) -> None:
    def actions(explore: bool) -> list[int]:
        seen = episode.frames(runs[0], CARTPOLE, key=KEY, explore=explore, max_steps=60)
        return [int(frame.picture.sum()) for frame in seen]

    assert actions(False) == actions(False) != actions(True)


def test_several_runs_are_no_film(runs: jaxrl.Result, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"holds 2 runs.*write result\[0\]"):
        runs.video(tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(runs: jaxrl.Result, tmp_path: Path) -> None:
    one = runs[0]
    with pytest.raises(ValueError, match=r"must end in \.gif or \.mp4"):
        one.video(tmp_path / "a.avi")
    with pytest.raises(ValueError, match="fps=0 must lie"):
        one.video(tmp_path / "a.gif", fps=0)
    with pytest.raises(ValueError, match="max_steps=0"):
        one.video(tmp_path / "a.gif", max_steps=0)
    with pytest.raises(ValueError, match="obs_space"):
        one.video(tmp_path / "a.gif", jaxrl.envs.make("Acrobot-v1"))
    with pytest.raises(ValueError, match="2 keys for one episode"):
        one.video(tmp_path / "a.gif", key=jax.random.split(KEY))
    with pytest.raises(TypeError, match="policy is int"):
        video.record(3, tmp_path / "a.gif", CARTPOLE)  # pyright: ignore
    with pytest.raises(ValueError, match="has no picture"):
        video.record(always_right, tmp_path / "a.gif", jaxrl.envs.make("Probe-Value"))
    with pytest.raises(ValueError, match="env is needed"):
        video.record(always_right, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_result_knows_its_environment(runs: jaxrl.Result) -> None:
    assert type(runs.env) is type(CARTPOLE) and runs[1].env is runs.env
    inside = jax.eval_shape(lambda key: jaxrl.train(AGENT, CARTPOLE, key, steps=32), KEY)
    assert inside.env is None
    with pytest.raises(ValueError, match="env is needed"):
        inside.video("a.gif")


def test_a_picture_of_another_kind_is_refused() -> None:
    class Grey(jaxrl.envs.CartPole):
        def render(self, state: Any) -> Any:
            return np.zeros((4, 4))

    with pytest.raises(TypeError, match=r"gave float64\[4, 4\]; a picture is uint8"):
        next(iter(episode.frames(always_right, Grey())))


# ------------------------------------------------------------------------------------------ MP4


@pytest.mark.skipif(not has_ffmpeg(), reason="no ffmpeg")
def test_mp4(tmp_path: Path) -> None:
    film = video.record(always_right, tmp_path / "a.mp4", CARTPOLE, key=KEY)
    assert film.path.read_bytes()[4:8] == b"ftyp" and film.path.stat().st_size > 2000
    assert "<video " in film._repr_html_()
    assert [x.name for x in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(video.importlib, "import_module", absent)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "jaxrl\[video\]"'):
        video.record(always_right, tmp_path / "a.mp4", CARTPOLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("last", ["exit 3", "cat > /dev/null; echo odd codec >&2; exit 1"])
def test_an_ffmpeg_that_fails_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text(f"#!/bin/sh\n{last}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(video, "_ffmpeg", lambda: str(fake))
    with pytest.raises(RuntimeError, match="ffmpeg could not write a.mp4"):
        video.record(always_right, tmp_path / "out" / "a.mp4", CARTPOLE)
    assert list((tmp_path / "out").iterdir()) == []


def test_odd_sides_are_made_even() -> None:
    assert video._even(np.zeros((3, 5, 3), np.uint8)).shape == (4, 6, 3)
