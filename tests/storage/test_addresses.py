"""Which addresses are public. Nothing is connected to: the policy's own function is called."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.storage.addresses import (
    CLOUD_HOSTS,
    GLOBAL_UNICAST,
    SPECIAL_IPV4,
    SPECIAL_IPV6,
    is_public,
)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "93.184.215.14", "192.0.1.1", "168.63.129.17", "100.63.0.1"),
        *("2606:2800:21f:cb07::1", "2a00:1450::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"),
    ],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("192.0.0.192", "192.0.0.8", "192.0.0.170", "192.0.0.9", "192.88.99.1", "0.0.0.0"),  # noqa: S104
        *("168.63.129.16", "100.100.100.200", "169.254.169.254", "169.254.170.2", "127.1.2.3"),
        *("198.18.0.1", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
        "255.255.255.255",
        *("64:ff9b:1::a9fe:a9fe", "64:ff9b:1:ffff::8.8.8.8", "64:ff9b::169.254.169.254"),
        *("::ffff:0:169.254.169.254", "::ffff:0:8.8.8.8", "fec0::1", "5f00::1", "3fff::1"),
        *("2001:db8::1", "fd00:ec2::254", "fc00::1", "fe80::1", "ff02::1", "::", "::1", "100::1"),
        *("2002:a9fe:a9fe::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        *("2001:0:a9fe:a9fe::", "2001:2::1", "2001:10::1", "2001:20::1", "4000::1", "e000::1"),
        *("::ffff:168.63.129.16", "64:ff9b::168.63.129.16", "::168.63.129.16", "64:ff9b::a00:1"),
    ],
)
def test_addresses_with_a_special_purpose_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


_WITH_IPV4 = ("::ffff:0:0/96", "64:ff9b::/96", "2002::/16")
_SPECIAL = [ipaddress.ip_network(name) for name in (*SPECIAL_IPV4, *CLOUD_HOSTS)]


@given(data=st.data(), name=st.sampled_from((*SPECIAL_IPV4, *CLOUD_HOSTS)))
def test_no_address_of_a_special_network_is_public_in_any_dress(
    data: st.DataObject, name: str
) -> None:
    network = ipaddress.IPv4Network(name)
    number = int(network[0]) + data.draw(st.integers(0, network.num_addresses - 1))
    dresses = {
        "mapped": 0xFFFF << 32,
        "translated": 0xFFFF << 48,
        "compatible": 0,
        "NAT64": int(ipaddress.IPv6Address("64:ff9b::")),
        "local NAT64": int(ipaddress.IPv6Address("64:ff9b:1::")),
    }

    assert not is_public(ipaddress.IPv4Address(number))
    for base in dresses.values():
        assert not is_public(ipaddress.IPv6Address(base | number))
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1))


@given(number=st.integers(0, 2**128 - 1), name=st.sampled_from(SPECIAL_IPV6))
def test_of_ipv6_only_what_was_given_out_and_has_no_special_purpose_is_public(
    number: int, name: str
) -> None:
    address = ipaddress.IPv6Address(number)
    holds_ipv4 = any(address in ipaddress.ip_network(name) for name in _WITH_IPV4)
    assert holds_ipv4 or not is_public(address) or address in ipaddress.IPv6Network(GLOBAL_UNICAST)

    network = ipaddress.IPv6Network(name)
    inside = ipaddress.IPv6Address(int(network[0]) | (number & int(network.hostmask)))
    assert name in _WITH_IPV4 or not is_public(inside)


@given(number=st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_public_exactly_outside_the_registry(number: int) -> None:
    address = ipaddress.IPv4Address(number)

    assert is_public(address) is not any(address in network for network in _SPECIAL)
