"""A short run of `make fuzz-api`: one round, the same each time."""

import pytest

from api.routes import OPERATIONS
from tests.soak.api.fuzz import Fuzz


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    # No worker answers turns here, which on a slow machine must not be taken for a full queue.
    return {**environment, "QUEUE_TIMEOUT_SECONDS": "90000", "QUEUE_FULL_SECONDS": "80000"}


def test_no_answer_is_a_500_or_one_that_the_openapi_page_does_not_describe(api, keys):
    fuzz = Fuzz(api.app, [keys.admin, keys.service, keys.alice], start=1)
    fuzz.go_round(examples=8)
    statuses: dict[str, set[int]] = {}
    for operation, status in fuzz.answers:
        statuses.setdefault(operation, set()).add(status)
    assert statuses.keys() == {f"{operation.method} {operation.path}" for operation in OPERATIONS}
    # It got as far as the operations themselves.
    let_in = [label for label, of_one in statuses.items() if any(200 <= status < 300 for status in of_one)]
    assert len(let_in) > len(OPERATIONS) * 0.7, statuses
