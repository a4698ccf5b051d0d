import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.relay.frames import (
    CloseCode,
    FrameError,
    FrameReader,
    Opcode,
    Received,
    check_close,
    encode_close,
    encode_text,
)


def masked(payload, opcode=Opcode.TEXT, final=True, key=b"\x01\x02\x03\x04"):
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + size.to_bytes(2)
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8)
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=300), max_size=5),
    st.integers(1, 50),
    st.binary(min_size=4, max_size=4),
)
def test_any_cut_of_the_bytes_gives_the_same_messages(texts, size, key):
    data = b"".join(masked(text.encode(), key=key) for text in texts)
    reader = FrameReader(2000)
    received = [one for start in range(0, len(data), size) for one in reader.feed(data[start : start + size])]
    assert received == [Received(Opcode.TEXT, text.encode()) for text in texts]


@settings(deadline=None)
@given(st.text(min_size=1, max_size=50), st.integers(0, 20))
def test_a_character_may_be_cut_by_a_fragment(text, cut):
    data = text.encode()
    cut = min(cut, len(data))
    reader = FrameReader(2000)
    assert reader.feed(masked(data[:cut], final=False)) == []
    assert reader.feed(masked(data[cut:], Opcode.CONTINUATION)) == [Received(Opcode.TEXT, data)]


def test_a_new_message_may_not_begin_inside_another():
    reader = FrameReader(100)
    reader.feed(masked(b"a", final=False))
    with pytest.raises(FrameError) as broken:
        reader.feed(masked(b"b"))
    assert broken.value.code == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("head", [b"\x81\xfe\x00\x05", b"\x81\xff" + (5).to_bytes(8)])
def test_a_length_has_one_spelling(head):
    with pytest.raises(FrameError) as broken:
        FrameReader(100).feed(head + b"abcd" + b"12345")
    assert broken.value.code == CloseCode.PROTOCOL_ERROR


def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not():
    assert FrameReader(16384).feed(masked(b"x" * 16384))
    with pytest.raises(FrameError) as broken:
        FrameReader(16384).feed(masked(b"x" * 16385)[:10])
    assert broken.value.code == CloseCode.TOO_BIG


@pytest.mark.parametrize(("size", "head"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_frames_of_every_size_are_framed_as_the_rfc_says(size, head):
    frame = encode_text(b"x" * size)
    assert len(frame) == head + size
    assert frame[0] == 0x81
    assert not frame[1] & 0x80


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_a_close_code_that_may_not_be_sent_is_an_error(code):
    with pytest.raises(FrameError):
        check_close(code.to_bytes(2))


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 3000, 4409, 4999])
def test_a_close_code_is_answered_with_itself(code):
    assert check_close(code.to_bytes(2) + "grüße".encode()) == code


def test_a_close_without_a_code_is_normal():
    assert check_close(b"") == CloseCode.NORMAL


def test_a_close_reason_that_is_not_text_is_an_error():
    with pytest.raises(FrameError) as broken:
        check_close((1000).to_bytes(2) + b"\xff")
    assert broken.value.code == CloseCode.INVALID_TEXT


def test_a_long_reason_is_cut_to_what_a_control_frame_holds():
    assert len(encode_close(CloseCode.TOO_SLOW, "x" * 500)) == 127
