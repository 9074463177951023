"""Ten seeds against published figures: `make learning` (minutes; not in the default suite)."""

import pytest

from benchmarks import learning

pytestmark = [pytest.mark.learning, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("name", [*learning.CASES, *learning.FAILURES])
def test_figure(name: str) -> None:
    row = learning.measure(name)
    learning.write([row])
    assert learning.passed(row), row
