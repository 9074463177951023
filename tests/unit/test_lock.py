"""Two processes never write to one folder; a dead one is no hindrance."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import pytest

import jaxrl
from jaxrl import lock
from jaxrl.lock import Lock, Locked

HOLDER = """
import sys, time
from pathlib import Path
from jaxrl.lock import Lock
Lock(Path(sys.argv[1])).take()
print("taken", flush=True)
time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    return process


def test_the_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(Locked, match=rf"written to by process {process.pid} on .*, since 20"):
            Lock(tmp_path).take()
        env = jaxrl.envs.make("CartPole-v1")
        with pytest.raises(jaxrl.CheckpointError, match=f"by process {process.pid} .*stop it"):
            jaxrl.train(jaxrl.PPO(), env, jax.random.key(0), steps=1024, checkpoint=tmp_path)
        assert not list((tmp_path / "checkpoints").iterdir())
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "lock.json").exists()  # it could not tidy up
    mine = Lock(tmp_path)
    mine.take()
    assert json.loads((tmp_path / "lock.json").read_bytes())["pid"] == os.getpid()
    with pytest.raises(Locked, match="this very process"):
        Lock(tmp_path).take()
    mine.release()
    assert not list(tmp_path.glob("lock*"))
    mine.release()


def test_training_lets_go_of_its_folder(tmp_path: Path) -> None:
    env, agent = jaxrl.envs.make("CartPole-v1"), jaxrl.PPO(num_envs=2, num_steps=8)
    key, seen = jax.random.key(0), []

    class Looking:
        def write(self, step: int, metrics: Any) -> None:
            seen.append((tmp_path / "lock.json").exists())

        def close(self) -> None:
            pass

    jaxrl.train(agent, env, key, steps=64, checkpoint=tmp_path, log=Looking())
    assert seen and all(seen)
    assert not list(tmp_path.glob("lock*"))
    with pytest.raises(ValueError, match="resume=True"):  # refused for another reason
        jaxrl.train(agent, env, key, steps=64, checkpoint=tmp_path)
    assert not list(tmp_path.glob("lock*"))

    class Failing(Looking):
        def write(self, step: int, metrics: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        jaxrl.train(agent, env, key, steps=64, checkpoint=tmp_path / "x", log=Failing())
    assert not list((tmp_path / "x").glob("lock*"))


def other_host(folder: Path, pid: int = 1, host: str = "elsewhere") -> Path:
    owner = {"pid": pid, "host": host, "since": "2030-01-01T00:00:00", "token": "0"}
    path = folder / "lock.json"
    path.write_text(json.dumps(owner))
    return path


def test_an_owner_on_another_host_is_alive_as_long_as_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 1.0)
    path = other_host(tmp_path)
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(Locked, match="process 1 on elsewhere, since 2030"):
            Lock(tmp_path).take()
    finally:
        over.set()
        thread.join()
    assert "waiting to see" in capsys.readouterr().err
    began = time.monotonic()
    mine = Lock(tmp_path)
    mine.take()  # no sign for a second
    assert time.monotonic() - began > 0.8
    mine.release()
    os.utime(other_host(tmp_path), (1e9, 1e9))  # for long
    began = time.monotonic()
    mine = Lock(tmp_path)
    mine.take()
    assert time.monotonic() - began < 0.5
    mine.release()


def test_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "TOUCH", 0.05)
    mine = Lock(tmp_path)
    mine.take()
    path = tmp_path / "lock.json"
    os.utime(path, (1e9, 1e9))
    until = time.monotonic() + 10
    while path.stat().st_mtime == 1e9 and time.monotonic() < until:
        time.sleep(0.01)
    assert path.stat().st_mtime > 1e9
    mine.release()


def test_who_was_taken_over_saves_no_more(tmp_path: Path) -> None:
    mine = Lock(tmp_path)
    mine.take()
    mine.check()
    path = other_host(tmp_path)
    with pytest.raises(Locked, match="on elsewhere"):
        mine.check()
    mine.release()
    assert path.exists()  # it is theirs
    path.unlink()
    mine = Lock(tmp_path)
    mine.take()
    path.unlink()
    mine.check()
    other_host(tmp_path)  # another file of that name
    mine.release()
    assert path.exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff" * 50])
def test_a_lock_that_is_not_readable_and_not_held_is_taken(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "lock.json").write_bytes(text)
    mine = Lock(tmp_path)
    mine.take()
    mine.release()


def test_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    host = os.uname().nodename
    other_host(tmp_path, os.getppid(), host)
    with pytest.raises(Locked, match=f"process {os.getppid()} on"):
        Lock(tmp_path).take()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    other_host(tmp_path, dead.pid, host)
    mine = Lock(tmp_path)
    mine.take()
    mine.release()
