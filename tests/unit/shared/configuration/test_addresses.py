"""What is on the public internet is written out by hand: a list derived from ours would prove nothing."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.configuration.addresses import is_listed, is_plain_host, refusal_of_address, refusal_of_host

INTERNAL = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.0.0.1": "private",
    "100.64.0.1": "CGNAT",
    "100.100.100.200": "metadata",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "metadata",
    "169.254.1.1": "link-local",
    "169.254.169.254": "metadata",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.1": "reserved",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4",
    "192.168.1.1": "private",
    "198.18.0.1": "reserved",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::7f00:1": "IPv4-compatible",
    "::808:808": "IPv4-compatible",
    "::ffff:127.0.0.1": "IPv4-mapped, loopback",
    "::ffff:169.254.169.254": "IPv4-mapped, cloud metadata",
    "::ffff:0:127.0.0.1": "IPv4-translated",
    "::ffff:0:8.8.8.8": "IPv4-translated",
    "64:ff9b::7f00:1": "NAT64, loopback",
    "64:ff9b::a9fe:a9fe": "NAT64, cloud metadata",
    "64:ff9b::a00:1": "NAT64, private",
    "64:ff9b:1::808:808": "reserved",
    "100::1": "reserved",
    "2001::1": "Teredo",
    "2001:2::1": "reserved",
    "2001:db8::1": "documentation",
    "2002:7f00:1::1": "6to4",
    "2002:808:808::1": "6to4",
    "3fff::1": "documentation",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "metadata",
    "fd12:3456::1": "private",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "2606:4700::1111%eth0": "link-local",
    "fec0::1": "reserved",
    "ff02::1": "multicast",
    "": "no address",
    "models.example": "no address",
}
PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450::1",
)


@pytest.mark.parametrize(("address", "reason"), INTERNAL.items())
def test_an_internal_address_is_refused_with_its_reason(address, reason):
    assert reason in (refusal_of_address(address) or "")


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_let_through(address):
    assert refusal_of_address(address) is None


@given(st.ip_addresses())
def test_no_address_that_python_knows_as_internal_is_let_through(address):
    if refusal_of_address(str(address)) is None:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address.version == 6 else address
        embeds = address.version == 6 and address not in ipaddress.ip_network("2000::/3")
        real = inner if embeds else address
        assert real.is_global
        assert not real.is_multicast
        assert not real.is_reserved


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0x7f.0.0.0x1",
        "0X7F.1",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "1.2.3.4.5",
        "256.256.256.256",
        "0x",
        "127%2e0.0.1",
        "fe80::1%eth0",
        "１２７.0.0.1",
        "модель.example",
        "a..b",
        "-a.example",
        "a b",
        "a\\b",
        "",
    ],
)
def test_a_host_that_parsers_may_read_differently_is_not_plain(host):
    assert not is_plain_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "api.anthropic.com",
        "API.OpenAI.com.",
        "vllm",
        "my_service",
        "127.0.0.1",
        "::1",
        "2606:4700::1111",
        "1e100.net",
        "3com",
        "xn--d1acpjx3f.example",
    ],
)
def test_a_name_or_an_address_in_its_usual_form_is_plain(host):
    assert is_plain_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "metadata.google.internal",
        "printer.local",
        "::1",
        "10.1.2.3",
    ],
)
def test_a_host_is_known_as_internal_by_its_spelling(host):
    assert refusal_of_host(host) is not None


def test_a_public_name_is_not_refused_by_its_spelling():
    assert refusal_of_host("api.anthropic.com") is None
    assert refusal_of_host("locals.example") is None


@pytest.mark.parametrize(
    ("host", "port", "listed", "expected"),
    [
        ("vllm.lan", 8000, "vllm.lan", True),
        ("VLLM.lan.", 8000, "vllm.lan", True),
        ("vllm.lan", 8000, "vllm.lan:8000", True),
        ("vllm.lan", 8001, "vllm.lan:8000", False),
        ("other.lan", 8000, "vllm.lan:8000", False),
        ("a.vllm.lan", 8000, "vllm.lan", False),
        ("::1", 8000, "::1", True),
        ("::1", 8000, "[::1]", True),
        ("::1", 8000, "[::1]:8000", True),
        ("::1", 8001, "[::1]:8000", False),
    ],
)
def test_a_host_is_listed_with_or_without_its_port(host, port, listed, expected):
    assert is_listed(host, port, frozenset({listed})) is expected
