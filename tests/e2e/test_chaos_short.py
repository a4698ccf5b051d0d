"""Half a minute of chaos: what `make chaos` does for hours, short enough for every change."""

import pytest

from tests.e2e.conftest import QUICK
from tests.soak.chaos.run import Run, execute
from tests.soak.chaos.service import Size

SHORT = Run(turns=80, seed=7, users=30, every_seconds=1.5, size=Size(2, 2, 2), settings=QUICK)


@pytest.mark.timeout(400)
def test_half_a_minute_of_chaos_loses_doubles_and_hides_nothing():
    summary = execute(SHORT)
    assert summary["violations"] == []
    # The faults did happen: a run without any would prove nothing.
    assert summary["faults"]["all"] >= 10
    assert summary["clients"]["turns"] == SHORT.turns
    assert summary["clients"]["deltas"] > 1000
