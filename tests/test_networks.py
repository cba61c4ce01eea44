"""Addresses that requests may come from: read from whatever stands in a header, and asked of before any proof."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import pytest

from receiver.contract import Post
from receiver.event import EventType
from receiver.networks import Proxies, among, read_network
from receiver.providers import providers
from tests.service import Running, play, running
from tests.waiting import until

LAN: Final = [ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")]
ALLOWED: Final = "192.0.2.0/24"
STRANGER: Final = "198.51.100.9"


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("198.51.100.1", "192.0.2.7", "198.51.100.1"),  # nobody asked this peer
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("::ffff:10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "192.0.2.7, 198.51.100.1", "198.51.100.1"),  # the first is the second's word
        ("10.0.0.1", "192.0.2.7, 198.51.100.1,10.0.0.3 , 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.9, 10.0.0.8", "10.0.0.9"),
        ("10.0.0.1", "192.0.2.7:4711", "192.0.2.7"),
        ("2001:db8:1::1", "[2001:db8:2::7]:443", "2001:db8:2::7"),
        ("10.0.0.1", "2001:DB8:2::7", "2001:db8:2::7"),
        ("10.0.0.1", "192.0.2.7, unknown", None),
        ("10.0.0.1", "192.0.2.7,", None),
        ("10.0.0.1", "192.0.2.7 198.51.100.1", None),
        ("10.0.0.1", "192.0.2.7, 3221225985", None),
        ("10.0.0.1", "192.0.2.7, [::1", "::1"),
        ("10.0.0.1", "\x00\xff" * 50, None),
        (None, "192.0.2.7", None),
    ],
)
def test_the_client_behind_proxies(peer: str | None, header: str, client: str | None) -> None:
    """the client is the right-most address that no trusted proxy has; what stands left of it counts nothing"""
    assert Proxies(LAN).client(peer, {"x-forwarded-for": header, "forwarded": "for=203.0.113.1"}) == client


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ('for=198.51.100.1, For="192.0.2.7:80";proto=https;by=10.0.0.1', "192.0.2.7"),
        ('proto=https; for="[2001:db8:2::7]:4711"', "2001:db8:2::7"),
        ('for="192.0.2.7, for=198.51.100.1', "198.51.100.1"),  # an open quote of a stranger's swallows nothing
        ("for=192.0.2.7, for=_hidden", None),
        ("for=192.0.2.7, by=10.0.0.1", None),
        ("for=192.0.2.7, x-for=198.51.100.1", None),
    ],
)
def test_the_client_in_the_standard_header(header: str, client: str | None) -> None:
    """the header Forwarded (RFC 7239) is read where it is the one that is configured, and then alone"""
    headers = {"forwarded": header, "x-forwarded-for": "203.0.113.1"}
    assert Proxies(LAN, "forwarded").client("10.0.0.1", headers) == client


def test_what_is_among_the_networks() -> None:
    """an IPv4 address is the same in its IPv6 form, on both sides; what is no address is in no network"""
    mapped = read_network("::ffff:192.0.2.0/120")
    assert all(among([mapped], one) for one in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1:80"))
    assert not any(among([mapped], one) for one in ("192.0.3.1", "2001:db8::1", "", "garbage", None))


async def test_every_provider_asks_for_the_address(database: str, tmp_path: Path) -> None:
    """from elsewhere, the best proof gets the provider's "try again" and a sample; from a listed network it is taken"""
    names = sorted(providers())
    played = [play(name, tmp_path, allow_from=[ALLOWED]) for name in names]
    proxies = Proxies([ip_network("127.0.0.1")])
    async with running(database, *played, proxies=proxies) as service:
        for one in played:
            type_ = one.source.provider.simulation.types[0]
            (post,) = one.posts(type_, "ann@one.test", run="address")
            for client, status in ((STRANGER, one.source.provider.reply.again), ("192.0.2.7", 200)):
                answer = await service.post(one.source.name, via(post, client))
                assert answer.status_code == status, (one.source.name, client)
            found = await service.events("source = $1", one.source.name)
            assert found, one.source.name
        await until(lambda: _all_sampled(service, len(names)))
        rows = await service.connection.fetch("SELECT DISTINCT reason, host(client_ip) AS client, detail FROM refused")
    assert [(row["reason"], row["client"]) for row in rows] == [("address_not_allowed", STRANGER)]


async def _all_sampled(service: Running, count: int) -> bool:
    return await service.count("refused") == count


def via(post: Post, *clients: str) -> Post:
    """The post as a proxy hands it on."""
    return Post(headers={**post.headers, "X-Forwarded-For": ", ".join(clients)}, body=post.body, query=post.query)


async def test_the_address_is_no_proof(database: str, tmp_path: Path) -> None:
    """a listed address proves nothing; a header that nobody trusts says nothing"""
    shop = play("postmark", tmp_path, name="shop", allow_from=[ALLOWED])
    other = play("postmark", tmp_path, name="other", allow_from=["127.0.0.0/8"])
    (right,) = shop.posts(EventType.BOUNCED, "ann@one.test")
    (wrong,) = replace(shop, keys={**shop.keys, "password": "a wrong password"}).posts(
        EventType.BOUNCED, "ann@one.test"
    )
    async with running(database, shop, other) as service:
        assert (await service.post("shop", via(right, "192.0.2.7"))).status_code == 503
        assert (await service.post("other", via(wrong, "127.0.0.1"))).status_code == 503
        assert await service.count("events") == 0
        await until(lambda: _all_sampled(service, 2))
        reasons = await service.connection.fetch("SELECT source, reason FROM refused ORDER BY source")
    assert [tuple(row) for row in reasons] == [("other", "wrong_credentials"), ("shop", "address_not_allowed")]
