from types import SimpleNamespace

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from api.resources import excerpt
from api.streams import is_same_host, origin_check


@given(st.text(max_size=600), st.text(min_size=1, max_size=200))
def test_an_excerpt_is_short(text, query):
    assert len(excerpt(text, query)) <= max(160, len(query)) + 2


@given(
    st.text("ab ", max_size=900),
    st.text("xyz", min_size=1, max_size=20),
    st.text("ab ", max_size=900),
)
def test_an_excerpt_shows_the_hit(before, query, after):
    assert query in excerpt(before + query + after, query)


def test_an_excerpt_says_where_it_was_cut():
    assert excerpt("a" * 300 + "X" + "b" * 300, "x").startswith("…")
    assert excerpt("short", "or") == "short"


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("https://chat.example.com", "chat.example.com", True),
        ("https://chat.example.com:443", "chat.example.com", True),
        ("http://localhost:8081", "localhost:8080", False),
        ("https://evil.example", "chat.example.com", False),
        ("https://chat.example.com.evil.example", "chat.example.com", False),
        ("null", "chat.example.com", False),
        ("file://", "", False),
        ("http://[::1]:80", "[::1]:80", True),
        ("http://x:notaport", "x", False),
    ],
)
def test_an_origin_is_ours_when_it_names_the_host_that_we_are_reached_at(origin, host, same):
    assert is_same_host(origin, host) is same


@pytest.mark.parametrize("listed", [frozenset(), frozenset({"https://product.example"})])
def test_the_services_own_page_may_always_open_a_stream(listed: frozenset[str]):
    allows = origin_check(SimpleNamespace(allowed_origins=listed))
    with Flask(__name__).test_request_context(base_url="https://chat.example.com"):
        assert allows("https://chat.example.com")
        assert allows("HTTPS://Product.example") is bool(listed)
        assert not allows("https://evil.example")
        assert not allows("null")
