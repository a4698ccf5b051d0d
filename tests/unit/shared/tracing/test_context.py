from uuid import UUID

import pytest

from shared.ids import new_id
from shared.tracing.context import TraceContext, parse_traceparent, span_id_of

VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_context_is_read_as_it_is_written():
    assert parse_traceparent(VALID).traceparent() == VALID
    assert parse_traceparent(VALID.replace("-01", "-00")) == TraceContext(
        0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        VALID + "-00",
        VALID.upper(),
        VALID.replace("00-", "01-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)
def test_what_is_no_trace_context_is_none(text):
    assert parse_traceparent(text) is None


def test_a_turns_span_has_an_id_that_follows_from_the_turns():
    assert span_id_of(UUID("01890a5d-ac96-774b-bcce-b302099a8057")) == 0xBCCEB302099A8057
    assert all(0 < span_id_of(new_id()) < 1 << 64 for _ in range(100))
