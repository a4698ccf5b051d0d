"""The cycle collector of a process that is up; in a process of its own, since it is set for good."""

import subprocess
import sys

SEEN = """
import gc
from shared.collector import calm_collector
import sqlalchemy
calm_collector()
print(gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1_000, gc.get_threshold()[0] > 700, gc.isenabled())
"""


def test_what_was_imported_is_not_looked_through_again_and_new_garbage_is():
    answer = subprocess.run(
        [sys.executable, "-c", SEEN], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.split() == ["True"] * 4
