"""Whose address a request has, and whether it is one of those that are listed.

A proxy in front of us is every request's peer. Only what a *listed* proxy says in its header is believed, and only
from the right: each proxy appends the address it was called from, so what stands left of a stranger's is the
stranger's word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Final

from pydantic import BeforeValidator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED: Final = "forwarded"  # the header of RFC 7239; every other one is a list of addresses alone
_MAPPED: Final = IPv6Network("::ffff:0:0/96")  # IPv4 addresses as IPv6 sockets show them
_FOR: Final = re.compile(r'(?:^|;)\s*for\s*=\s*"?([^";]*)"?\s*(?=;|$)', re.IGNORECASE)


def read_network(text: object) -> Network:
    """`192.0.2.0/24`, `2001:db8::/32`, or one address. Raises ValueError."""
    try:
        found = ip_network(str(text).strip(), strict=False)
    except ValueError as error:
        raise ValueError("is not an address or a network, such as 192.0.2.7 or 192.0.2.0/24") from error
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        return IPv4Network((int(found.network_address) & 0xFFFFFFFF, found.prefixlen - 96))
    return found


def read_address(text: str) -> Address | None:
    """An address, also with a port (`192.0.2.7:80`, `[2001:db8::7]:80`); None for what is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _networks(value: object) -> object:
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Networks = Annotated[list[Annotated[Network, BeforeValidator(read_network)]], BeforeValidator(_networks)]


def among(networks: Sequence[Network], client: str | None) -> bool:
    """Whether the address is in one of the networks; what is no address is in none."""
    address = None if client is None else read_address(client)
    return address is not None and any(address in network for network in networks)


def neighbourhood(client: str | None) -> str:
    """What is counted as one address: of IPv6 a /64, which one host may have whole."""
    address = None if client is None else read_address(client)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), 64), strict=False))
    return str(address)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies whose `header` is believed."""

    trusted: Sequence[Network] = ()
    header: str = "x-forwarded-for"

    def client(self, peer: str | None, headers: Mapping[str, str]) -> str | None:
        """Whose request it is: the peer's, or the last address that a trusted proxy names and that is none itself.

        None where a trusted proxy names something that is no address.
        """
        if not self.trusted or not among(self.trusted, peer):
            return peer
        client = peer
        for text in self._hops(headers.get(self.header, "")):
            address = read_address(text)
            client = None if address is None else str(address)
            if not among(self.trusted, client):
                break
        return client

    def _hops(self, value: str) -> Iterator[str]:
        """What the proxies have written, the latest first. An element of `Forwarded` without `for` is no address."""
        for element in reversed(value.split(",") if value.strip() else []):
            if self.header != FORWARDED:
                yield element
            else:
                found = _FOR.search(element)
                yield found[1] if found else ""
