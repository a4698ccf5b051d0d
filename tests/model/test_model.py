"""What docs/model says of a turn is so: the design holds, and each protection taken away has a counterexample."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "model"
HOLDS = ("safety", "deaths", "ends", "late-text")
BREAKS = (
    "no-log-fence",
    "no-attempt-check",
    "no-atomic-settle",
    "claim-of-a-lapsed-turn",
    "same-attempt",
    "no-reset-at-start",
)
SEARCH_SECONDS = 240
"""Where it takes five; the tests' own limit is longer still."""


@pytest.fixture
def check(tmp_path):
    """Runs one case; Spin is a tool of the system, so only CI insists on it."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{tool} is missing: apt-get install {tool}")
            pytest.skip(f"{tool} is not installed: apt-get install {tool}")

    def run(case):
        return subprocess.run(
            [MODEL / "check.sh", case],
            check=False,
            capture_output=True,
            text=True,
            timeout=SEARCH_SECONDS + 30,
            env={**os.environ, "TMPDIR": str(tmp_path), "MODEL_LIMIT_SECONDS": str(SEARCH_SECONDS)},
        )

    return run


@pytest.mark.parametrize("case", HOLDS)
def test_the_design_of_a_turn_holds_whatever_goes_wrong(check, case):
    done = check(case)
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.match(rf"{case} +holds +[1-9]\d{{4,}}", done.stdout), done.stdout


@pytest.mark.parametrize("case", BREAKS)
def test_a_turn_without_one_of_its_protections_has_a_counterexample(check, case):
    done = check(case)
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.match(rf"{case} +breaks .*assertion violated", done.stdout), done.stdout


def test_the_model_s_page_names_every_case_with_its_result():
    page = (MODEL / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| \**(holds|breaks)", page, re.MULTILINE))
    assert rows == dict.fromkeys(HOLDS, "holds") | dict.fromkeys(BREAKS, "breaks")
