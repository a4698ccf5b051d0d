"""A short run of `make fuzz-api`."""

import pytest

from api.routes import OPERATIONS
from tests.soak.api.fuzz import Fuzz


@pytest.mark.timeout(180)
def test_no_answer_is_a_500_or_one_that_the_openapi_page_does_not_describe(api, keys):
    fuzz = Fuzz(api.app, [keys.admin, keys.service, keys.alice], start=1)
    fuzz.run_for(40, examples=8)
    statuses: dict[str, set[int]] = {}
    for operation, status in fuzz.answers:
        statuses.setdefault(operation, set()).add(status)
    assert statuses.keys() == {f"{operation.method} {operation.path}" for operation in OPERATIONS}
    # It got as far as the operations themselves.
    let_in = [label for label, of_one in statuses.items() if any(200 <= status < 300 for status in of_one)]
    assert len(let_in) > len(OPERATIONS) * 0.7, statuses
