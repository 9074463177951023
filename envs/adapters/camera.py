"""MuJoCo's own renderer, for Brax, MJX and Playground.

It needs OpenGL: with a display whatever that has, without one EGL (a GPU driver or Mesa), unless
the variable MUJOCO_GL chooses.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import numpy as np

from jaxrl.drawing import NoPicture, Picture

WIDTH, HEIGHT = 400, 300

Kept = tuple[Any, Any, Any, Any]


class Pose(NamedTuple):
    """Where all joints are, and how fast they move."""

    qpos: Any
    qvel: Any


_kept: dict[int, Kept] = {}
"""model, renderer, data and camera of the last models that were drawn: contexts are dear."""

KEEP = 4


def draw(model: Any, data: Any) -> Picture:
    """`model` is a mujoco.MjModel; `data` has qpos and qvel, and mocap_pos and mocap_quat if the
    model has such bodies."""
    import mujoco

    _, renderer, scratch, camera = _open(model)
    scratch.qpos[:] = np.asarray(data.qpos)
    scratch.qvel[:] = np.asarray(data.qvel)
    if model.nmocap and hasattr(data, "mocap_pos"):
        scratch.mocap_pos[:] = np.asarray(data.mocap_pos)
        scratch.mocap_quat[:] = np.asarray(data.mocap_quat)
    mujoco.mj_forward(model, scratch)  # pyright: ignore
    renderer.update_scene(scratch, camera=camera)
    return np.asarray(renderer.render(), np.uint8).copy()


def _open(model: Any) -> Kept:
    import mujoco

    if id(model) not in _kept:
        _without_a_display()
        room = model.vis.global_
        try:
            renderer = mujoco.Renderer(  # pyright: ignore
                model, min(HEIGHT, room.offheight // 2 * 2), min(WIDTH, room.offwidth // 2 * 2)
            )
        except Exception as error:  # whatever the driver, the loader or the window system raises
            raise NoPicture(
                f"MuJoCo cannot draw on this machine ({type(error).__name__}: {error}). Without a "
                "display it needs EGL, from a GPU driver or Mesa (apt install libegl1 libgl1), or "
                "OSMesa (apt install libosmesa6, and MUJOCO_GL=osmesa before Python starts)."
            ) from error
        while len(_kept) >= KEEP:
            oldest = next(iter(_kept))
            _kept.pop(oldest)[1].close()
        data = mujoco.MjData(model)  # pyright: ignore
        _kept[id(model)] = model, renderer, data, _camera(model)
    return _kept[id(model)]


def _without_a_display() -> None:
    """MuJoCo opens a window's context unless told otherwise when it is imported."""
    chosen = os.environ.get("MUJOCO_GL") or sys.platform != "linux"
    if chosen or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    from mujoco.rendering.classic import gl_context  # pyright: ignore

    try:
        from mujoco.egl import GLContext  # pyright: ignore
    except Exception as error:
        raise NoPicture(
            f"MuJoCo needs EGL to draw without a display ({error}): apt install libegl1 libgl1, or "
            "set MUJOCO_GL=osmesa before Python starts (apt install libosmesa6)."
        ) from error
    gl_context.GLContext = GLContext  # pyright: ignore


def _camera(model: Any) -> Any:
    """A camera of the model that follows; else one that follows the first body from its side."""
    import mujoco

    modes = mujoco.mjtCamLight  # pyright: ignore
    following = (modes.mjCAMLIGHT_TRACK.value, modes.mjCAMLIGHT_TRACKCOM.value)
    for i in range(model.ncam):
        if model.cam_mode[i] in following:
            return i
    if model.ncam:
        return 0
    camera = mujoco.MjvCamera()  # pyright: ignore
    mujoco.mjv_defaultFreeCamera(model, camera)  # pyright: ignore
    if model.nbody > 1 and model.body_dofnum[1] >= 6:
        camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING.value  # pyright: ignore
        camera.trackbodyid = 1
    return camera
