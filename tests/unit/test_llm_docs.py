"""The pages about language models: their code runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("page", "count"), [("llm", 12), pytest.param("llm_training", 1, marks=pytest.mark.slow)]
)
def test_the_code_in_the_docs_runs(page: str, count: int) -> None:
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == count
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, f"docs/{page}.md", "exec"), names)
    if page == "llm":
        assert names["lm"].config == names["config"]
