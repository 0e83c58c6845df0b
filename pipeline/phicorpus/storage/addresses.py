"""The addresses of the public internet, by IANA's registries, not by Python's version.

Python's `is_global` changes with its patch releases, and knows nothing of the addresses behind
which clouds keep their own services.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SPECIAL_IPV4: Final = (
    "0.0.0.0/8",  # this network, RFC 791
    "10.0.0.0/8",  # private use, RFC 1918
    "100.64.0.0/10",  # shared, RFC 6598; 100.100.100.200 is Alibaba Cloud's metadata service
    "127.0.0.0/8",  # loopback, RFC 1122
    "169.254.0.0/16",  # link local, RFC 3927; metadata services of most clouds
    "172.16.0.0/12",  # private use, RFC 1918
    "192.0.0.0/24",  # protocol assignments, RFC 6890; 192.0.0.192 is Oracle Cloud's metadata
    "192.0.2.0/24",  # documentation, RFC 5737
    "192.31.196.0/24",  # AS112, RFC 7535
    "192.52.193.0/24",  # AMT, RFC 7450
    "192.88.99.0/24",  # 6to4 relays, deprecated, RFC 7526
    "192.168.0.0/16",  # private use, RFC 1918
    "192.175.48.0/24",  # AS112, RFC 7534
    "198.18.0.0/15",  # benchmarking, RFC 2544
    "198.51.100.0/24",  # documentation, RFC 5737
    "203.0.113.0/24",  # documentation, RFC 5737
    "224.0.0.0/4",  # multicast, RFC 5771
    "240.0.0.0/4",  # reserved, RFC 1112, and the limited broadcast, RFC 8190
)
"""IANA's IPv4 Special-Purpose Address Registry, and multicast, as of November 2025.

www.iana.org/assignments/iana-ipv4-special-registry. Anycast services of it that are reachable from
everywhere are named too: no asset lies there.
"""

SPECIAL_IPV6: Final = (
    "::/96",  # unspecified, loopback, IPv4-compatible (deprecated), RFC 4291
    "::ffff:0:0/96",  # IPv4-mapped, RFC 4291: judged by its IPv4
    "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765 (SIIT)
    "64:ff9b::/96",  # IPv4 by NAT64, RFC 6052: judged by its IPv4
    "64:ff9b:1::/48",  # local-use NAT64, RFC 8215: what it leads to only the local network knows
    "100::/64",  # discard, RFC 6666
    "100:0:0:1::/64",  # dummy prefix, RFC 9780
    "2001::/23",  # protocol assignments, RFC 2928: Teredo, benchmarking, ORCHID, ...
    "2001:db8::/32",  # documentation, RFC 3849
    "2002::/16",  # 6to4, RFC 3056
    "2620:4f:8000::/48",  # AS112, RFC 7534
    "3fff::/20",  # documentation, RFC 9637
    "5f00::/16",  # segment routing, RFC 9602
    "fc00::/7",  # unique local, RFC 4193; fd00:ec2::254 is AWS's metadata
    "fe80::/10",  # link local, RFC 4291
    "fec0::/10",  # site local, deprecated, RFC 3879
    "ff00::/8",  # multicast, RFC 4291
)
"""IANA's IPv6 Special-Purpose Address Registry, multicast and site-local, as of November 2025.

www.iana.org/assignments/iana-ipv6-special-registry.
"""

GLOBAL_UNICAST: Final = "2000::/3"
"""All that IANA has given out of IPv6: www.iana.org/assignments/ipv6-address-space."""

CLOUD_HOSTS: Final = ("168.63.129.16/32",)
"""Public by number, private by use: Azure's host, which gives machines their settings.

learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
"""


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public internet.

    An IPv6 address that holds an IPv4 one, and leads there, is as public as that one.

    Example:
        >>> [is_public(ipaddress.ip_address(a)) for a in ("8.8.8.8", "10.0.0.1", "192.0.0.192")]
        [True, False, False]
        >>> is_public(ipaddress.ip_address("64:ff9b::169.254.169.254"))
        False
    """
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv4Address):
        return not _is_in(address, _IPV4)
    return address in _GLOBAL_UNICAST and not _is_in(address, _IPV6)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that packets to an IPv6 address go to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if _is_in(address, _LAST_32_BITS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def _is_in(address: Address, networks: Iterable[_Network]) -> bool:
    return any(address in network for network in networks)


def _networks(names: Iterable[str]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(name) for name in names)


_IPV4: Final = _networks((*SPECIAL_IPV4, *CLOUD_HOSTS))
_IPV6: Final = _networks(SPECIAL_IPV6)
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network(GLOBAL_UNICAST)
_LAST_32_BITS: Final = _networks(("::ffff:0:0/96", "64:ff9b::/96"))
