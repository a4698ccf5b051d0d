"""The list of faults and the tests agree."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "explanation" / "faults.md").read_text()
COUNTS = {"W": 12, "R": 15, "P": 10, "V": 14, "C": 9, "A": 10}


def ids_in(text: str) -> list[str]:
    return re.findall(r"^\| ([A-Z]\d+) \|", text, re.MULTILINE)


def test_every_fault_of_the_page_has_a_test_or_a_reason_and_not_both():
    faults, _, reasons = PAGE.partition("## Rows without a test here")
    listed, excused = ids_in(faults), ids_in(reasons)
    assert listed == [f"{kind}{number}" for kind, most in COUNTS.items() for number in range(1, most + 1)]
    tests = "\n".join(path.read_text() for path in HERE.glob("test_*_faults.py"))
    tested = {name.upper() for name in re.findall(r"^def test_([a-z]\d+)_", tests, re.MULTILINE)}
    assert tested.isdisjoint(excused)
    assert tested | set(excused) == set(listed)
