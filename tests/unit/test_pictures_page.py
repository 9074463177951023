"""docs/pictures.md: its code runs, and its pictures are there and small."""

import re
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "pictures.md").read_text()


@pytest.mark.slow
def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, "docs/pictures.md", "exec"), names)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == set(re.findall(r'"([\w.]+\.(?:png|pdf|gif|html))"', TEXT)) | {"line.png"}
    for name in ("heat.png", "compare.png", "fan.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 300


def test_the_pictures_are_there_and_small() -> None:
    named = set(re.findall(r"\]\((images/[^)]*)\)", TEXT))
    there = {f"images/{path.name}" for path in (DOCS / "images").iterdir() if path.is_file()}
    assert named == there
    assert sum((DOCS / name).stat().st_size for name in named) < 350_000
    for name in named:
        Image.open(DOCS / name).verify()


def test_the_gallery_shows_every_figure_of_the_book() -> None:
    from benchmarks import figures

    named = set(re.findall(r"\]\(images/book/(.*)\.png\)", (DOCS / "gallery.md").read_text()))
    assert named == set(figures.FIGURES) == {x.stem for x in (DOCS / "images/book").iterdir()}
