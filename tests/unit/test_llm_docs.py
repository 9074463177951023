"""docs/llm.md: its code runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def test_the_code_in_the_docs_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "llm.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 11
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/llm.md", "exec"), names)
    assert names["lm"].config == names["config"]
