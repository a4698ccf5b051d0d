"""Whatever pieces a request comes in, it is read the same, and its size is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from api.requests import BODY_BYTES as ACCEPTED
from shared.errors import ProblemCode
from turnkeeper.up.arriving import BODY_BYTES, FRAMING_BYTES, HEAD_BYTES, Arriving, Unserved, Whole

HEAD = b"POST /a?b HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer key\r\n"
bodies = st.lists(st.binary(max_size=40), max_size=4)


def with_length(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        + b"0\r\n\r\n"
    )


def take_all(arriving: Arriving) -> list[Whole | Unserved]:
    taken = []
    while (one := arriving.take()) is not None:
        taken.append(one)
        if isinstance(one, Unserved):
            break
    return taken


@given(bodies, st.data())
def test_requests_are_the_same_in_whatever_pieces_they_come(sent: list[bytes], data: st.DataObject):
    stream, expected = b"", []
    for body in sent:
        size = data.draw(st.integers(0, 9))
        stream += in_chunks(body, size) if size else with_length(body)
        expected.append(Whole(with_length(body), b"/a", b"Bearer key"))
    arriving, taken = Arriving(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        arriving.feed(stream[:size])
        stream = stream[size:]
        taken += take_all(arriving)
    assert taken == expected
    assert not arriving.has_begun
    assert len(arriving) == 0


@given(st.binary(max_size=400), st.lists(st.integers(1, 60)))
def test_any_bytes_give_the_same_outcome_in_one_piece_and_in_many(sent: bytes, sizes: list[int]):
    whole, pieces = Arriving(), Arriving()
    whole.feed(sent)
    at_once, one_by_one = take_all(whole), []
    for size in [*sizes, len(sent)]:
        pieces.feed(sent[:size])
        sent = sent[size:]
        if not any(isinstance(one, Unserved) for one in one_by_one):
            one_by_one += take_all(pieces)
    assert at_once == one_by_one


def test_a_body_is_what_the_api_accepts_and_nothing_is_kept_beyond_the_bounds():
    assert BODY_BYTES == ACCEPTED
    arriving = Arriving()
    arriving.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    assert arriving.take() is None
    fed = 0
    while (taken := arriving.take()) is None:
        arriving.feed(b"1\r\nx\r\n" * 1000)
        fed += 6000
        assert len(arriving) < BODY_BYTES + HEAD_BYTES
    assert isinstance(taken, Unserved)
    assert taken.code is ProblemCode.PAYLOAD_TOO_LARGE
    assert fed < 2 * FRAMING_BYTES + 6000


def test_a_client_that_waits_for_100_continue_is_known_until_its_body_is_here():
    arriving = Arriving()
    arriving.feed(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert arriving.take() is None
    assert arriving.wants_continue
    arriving.feed(b"ok")
    taken = arriving.take()
    assert isinstance(taken, Whole)
    assert b"Expect" not in taken.encoded
    assert not arriving.wants_continue


def test_a_target_in_utf_8_as_curl_sends_it_is_read():
    arriving = Arriving()
    arriving.feed("GET /v1/sessions/search?q=Grüße HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    taken = arriving.take()
    assert isinstance(taken, Whole)
    assert taken.path == b"/v1/sessions/search"
