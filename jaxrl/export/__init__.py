"""Policies as programs that run without jaxrl: `run.export(path, format="jax")`, or "onnx".

Both hold the actions without exploration, parameters included, for any number of observations at a
time. Each is read back and played against the live policy before it is left on disk.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrl.result import Policy

FORMATS = ("jax", "onnx")


@dataclasses.dataclass(frozen=True)
class Export:
    """What was written, and how it was found to act."""

    path: Path
    format: str
    difference: float  # the largest between its actions and those of the live policy
    compared: int  # actions

    def __str__(self) -> str:
        size = self.path.stat().st_size if self.path.exists() else 0
        return (
            f"{self.path} ({self.format}, {size / 1024:,.0f} KiB): {self.compared} actions differ "
            f"from the live policy's by at most {self.difference:.2g}"
        )


def export(policy: Policy, path: str | Path, format: str = "jax") -> Export:
    """Write `policy` to the file `path` as a program."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown: give one of {', '.join(FORMATS)}.")
    file = "program" if format == "jax" else "onnx"
    module = importlib.import_module(f"jaxrl.export.{file}")
    difference, compared = module.write(policy, Path(path))
    return Export(Path(path), format, difference, compared)


def needs(package: str, format: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f'format={format!r} needs {package}: pip install "jaxrl[export]".', name=package
    )


__all__ = ["FORMATS", "Export", "export", "needs"]
