"""The public listener by its bytes: framing, limits of heads and bodies, connections, and its end."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.contract import Answer, Post
from receiver.event import EventType
from receiver.web import http
from receiver.web.budget import Budget
from receiver.web.request import GaveUp, Request
from tests.service import Played, Running, play, running
from tests.waiting import until


class Wire:
    """A connection as a client sees it: bytes out, responses in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def response(self) -> tuple[int, bytes, bytes]:
        """(status, head, body) of the next response; interim ones have no body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        body = await self._reader.readexactly(int(found[1])) if found else b""
        return int(head.split()[1]), head, body

    async def ended(self) -> bytes:
        """What still comes until the other side closes."""
        return await self._reader.read()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def wire(service: Running) -> AsyncIterator[Wire]:
    place = urlsplit(service.url)
    one = Wire(*await asyncio.open_connection(place.hostname, place.port))
    try:
        yield one
    finally:
        one.close()


def head_of(post: Post, source: str = "resend", *extra: str, length: int | None = None, version: str = "1.1") -> bytes:
    """A request's head as bytes."""
    lines = [
        f"POST /webhooks/{source} HTTP/{version}",
        "Host: hooks.test",
        f"Content-Length: {len(post.body) if length is None else length}",
        *(f"{name}: {value}" for name, value in post.headers.items()),
        *extra,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def posts(played: Played, count: int, run: str = "r") -> Sequence[Post]:
    return [played.posts(EventType.CLICKED, f"u{number}@one.test", run=f"{run}{number}")[0] for number in range(count)]


async def test_pipelined_requests_are_answered_in_their_order(database: str, tmp_path: Path) -> None:
    """requests that come in one write are all stored, and answered one after the other in their order."""
    resend = play("resend", tmp_path)
    good = posts(resend, 3)
    bad = Post(headers={**good[0].headers, "svix-signature": "v1,AAAA"}, body=good[0].body)
    async with running(database, resend) as service, wire(service) as one:
        await one.send(
            b"".join(head_of(post) + post.body for post in (good[0], bad, good[1]))
            + b"GET /webhooks/resend HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
            + head_of(good[2])
            + good[2].body
        )
        assert [(await one.response())[0] for _ in range(6)] == [200, 401, 200, 200, 404, 200]
        assert await service.count("events") == 3


async def test_a_body_in_pieces_is_one_body(database: str, tmp_path: Path) -> None:
    """a head and a body that arrive byte by byte, and a chunked body, are stored like any other."""
    resend = play("resend", tmp_path)
    slow, chunked = posts(resend, 2)
    async with running(database, resend) as service, wire(service) as one:
        for number in range(0, len(whole := head_of(slow) + slow.body), 7):
            await one.send(whole[number : number + 7])
        assert (await one.response())[0] == 200
        head = head_of(chunked).replace(b"Content-Length: %d" % len(chunked.body), b"Transfer-Encoding: chunked")
        parts = [chunked.body[at : at + 100] for at in range(0, len(chunked.body), 100)]
        await one.send(head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n")
        assert (await one.response())[0] == 200
        assert await service.count("events") == 2


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_offer_of_another_protocol_costs_no_event(database: str, tmp_path: Path, framing: str) -> None:
    """a POST that offers an upgrade (Java's client does, for HTTP/2) is received as the HTTP/1.1 that it is."""
    resend = play("resend", tmp_path)
    offered, after = posts(resend, 2)
    extra = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")
    head, body = head_of(offered, "resend", *extra), offered.body
    if framing == "chunked":
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with running(database, resend) as service, wire(service) as one:
        await one.send(head + body[:50])
        await one.send(body[50:] + head_of(after) + after.body)
        assert [(await one.response())[0] for _ in range(2)] == [200, 200]
        assert await service.count("events") == 2


async def test_a_client_that_asks_first_is_told_to_go_on(database: str, tmp_path: Path) -> None:
    """`Expect: 100-continue` gets its interim answer before the body, for a source that exists."""
    resend = play("resend", tmp_path)
    (post,) = posts(resend, 1)
    async with running(database, resend) as service, wire(service) as one:
        await one.send(head_of(post, "resend", "Expect: 100-continue"))
        assert (await one.response())[0] == 100
        await one.send(post.body)
        assert (await one.response())[0] == 200
        assert await service.count("events") == 1


async def test_a_refusal_before_the_body_does_not_eat_the_next_request(database: str, tmp_path: Path) -> None:
    """whoever asked first and got a 404 may send the body or not: the connection ends, so that neither is misread."""
    async with running(database, play("resend", tmp_path)) as service, wire(service) as one:
        await one.send(head_of(Post(headers={}, body=b"x" * 100), "nobody", "Expect: 100-continue"))
        status, head, _ = await one.response()
        assert (status, b"connection: close" in head) == (404, True)
        await one.send(b"x" * 100 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await one.ended() == b""


async def test_headers_behind_a_body_say_nothing(database: str, tmp_path: Path) -> None:
    """a signature behind a chunked body neither spoils the one before it nor takes its place, however many come."""
    resend = play("resend", tmp_path)
    post, other = posts(resend, 2)
    length, chunked = b"Content-Length: %d", b"Transfer-Encoding: chunked"
    head = head_of(post).replace(length % len(post.body), chunked)
    late = re.search(rb"svix-signature: [^\r]*\r\n", head_of(other))
    assert late is not None
    unsigned = head_of(other).replace(length % len(other.body), chunked).replace(late[0], b"")
    async with running(database, resend) as service, wire(service) as one:
        await one.send(head + _in_one_chunk(post.body) + b"svix-signature: v1,AAAA\r\n" * 2000 + b"\r\n")
        assert (await one.response())[0] == 200
        await one.send(unsigned + _in_one_chunk(other.body) + late[0] + b"\r\n")
        assert (await one.response())[0] == 401
        assert await service.count("events") == 1


def _in_one_chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n" % (len(body), body)


async def test_an_unwanted_body_is_read_over_or_ends_the_connection(database: str, tmp_path: Path) -> None:
    """a small body for an unknown source is read over, so that the connection goes on; a large one ends it."""
    async with running(database, play("resend", tmp_path)) as service:
        async with wire(service) as one:
            await one.send(head_of(Post(headers={}, body=b""), "nobody", length=10) + b"0123456789")
            await one.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert [(await one.response())[0] for _ in range(2)] == [404, 200]
        async with wire(service) as one:
            await one.send(head_of(Post(headers={}, body=b""), "nobody", length=10_000_000) + b"x" * 100_000)
            status, head, _ = await one.response()
            assert (status, b"connection: close" in head) == (404, True)
            assert await one.ended() == b""


async def test_urls_and_versions_that_clients_really_send(database: str, tmp_path: Path) -> None:
    """the absolute form, percent signs, a closing slash and HTTP/1.0 are understood."""
    resend = play("resend", tmp_path)
    made = iter(posts(resend, 6))
    async with running(database, resend) as service:
        for target in ("http://hooks.test/webhooks/resend?a=b", "/webhooks/%72esend", "/webhooks/resend/"):
            async with wire(service) as one:
                post = next(made)
                await one.send(head_of(post).replace(b"/webhooks/resend", target.encode(), 1) + post.body)
                assert (await one.response())[0] == 200
        for asked in (b"", b"Connection: keep-alive\r\n", b"Proxy-Connection: keep-alive\r\n"):
            async with wire(service) as one:
                post = next(made)
                await one.send(head_of(post, version="1.0").replace(b"\r\n", b"\r\n" + asked, 1) + post.body)
                status, head, _ = await one.response()
                assert (status, b"connection: close" in head) == (200, True)
                assert await one.ended() == b""
        assert await service.count("events") == 6


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS, because somebody wrote https://
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /webhooks/resend HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /webhooks/resend HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /webhooks/resend HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"\r\n\r\nnonsense\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_told_so(database: str, tmp_path: Path, data: bytes) -> None:
    """bytes that are no HTTP/1.1 request, or are framed in two ways at once, get 400 and the end."""
    async with running(database, play("resend", tmp_path)) as service, wire(service) as one:
        await one.send(data)
        assert (await one.response())[0] == 400
        assert await one.ended() == b""


@pytest.mark.parametrize(
    "shape",
    ["many headers", "one header", "no end", "url", "one again", "one name again", "empty again", "behind the body"],
)
async def test_a_head_has_a_limit(database: str, tmp_path: Path, shape: str) -> None:
    """more than 32 kB is refused, whether it is many headers, one, an endless one, a URL, or stands behind the body."""
    start = b"POST /webhooks/resend HTTP/1.1\r\nHost: x\r\n"
    data = {
        "many headers": start + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 100) for n in range(400)) + b"\r\n",
        "one header": start + b"x: " + b"y" * 40_000 + b"\r\n\r\n",
        "no end": start + b"x: " + b"y" * 1_000_000,
        "one again": start + (b"x: " + b"y" * 100 + b"\r\n") * 400 + b"\r\n",
        "one name again": start + (b"x" * 1000 + b": y\r\n") * 40 + b"\r\n",
        "empty again": start + b"x:\r\n" * 10_000 + b"\r\n",
        "behind the body": start + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: " + b"y" * 1_000_000,
        "url": b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    }[shape]
    async with running(database, play("resend", tmp_path)) as service, wire(service) as one:
        sending = asyncio.create_task(one.send(data))
        assert (await one.response())[0] == 431
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert await service.count("refused") == 0


async def test_a_head_must_come_in_time(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """who begins a request and does not go on is told so and cut off; so is a connection that never says anything."""
    monkeypatch.setattr(http, "HEAD_TIME", 0.3)
    async with running(database, play("resend", tmp_path)) as service, wire(service) as silent, wire(service) as slow:
        await slow.send(b"POST /webhooks/resend HTTP/1.1\r\nHost: x\r\n")
        assert (await slow.response())[0] == 408
        assert await slow.ended() == b""
        assert await silent.ended() == b""


@pytest.mark.parametrize(("source", "status"), [("resend", 408), ("ses", 503)])
async def test_a_slow_body_gets_the_providers_own_code(database: str, tmp_path: Path, source: str, status: int) -> None:
    """a body that does not come whole in time is answered so that its provider sends it again, and is counted."""
    played = play(source, tmp_path)
    async with running(database, played, body_timeout=0.3) as service, wire(service) as one:
        await one.send(head_of(Post(headers={}, body=b""), source, length=1000) + b"{")
        assert (await one.response())[0] == status
        metrics = (await service.client.get(f"{service.admin_url}/metrics")).text
        assert f'receiver_refused_total{{reason="too_slow",source="{source}"}} 1.0' in metrics


@pytest.mark.parametrize(("source", "status"), [("resend", 413), ("ses", 503)])
async def test_a_large_body_gets_the_providers_own_code(
    database: str, tmp_path: Path, source: str, status: int
) -> None:
    """a body over the limit is refused on its announcement, or as soon as it is over, with the provider's own code."""
    played = play(source, tmp_path, max_body=1000)
    async with running(database, played) as service:
        async with wire(service) as one:
            await one.send(head_of(Post(headers={}, body=b""), source, length=1001))
            assert (await one.response())[0] == status
        async with wire(service) as one:
            head = head_of(Post(headers={}, body=b""), source, "Transfer-Encoding: chunked")
            await one.send(head.replace(b"Content-Length: 0\r\n", b"") + b"3e9\r\n" + b"x" * 1001)
            assert (await one.response())[0] == status
        bomb = gzip.compress(b"[" + b" " * 10_000_000 + b"]")
        async with wire(service) as one:
            post = Post(headers={"Content-Encoding": "gzip"}, body=gzip.compress(b" " * 100_000))
            await one.send(head_of(post, source) + post.body)
            assert (await one.response())[0] == status
        assert len(bomb) > 1000  # refused above already by its announcement


async def test_announcing_much_keeps_nobody_out(database: str, tmp_path: Path) -> None:
    """connections that announce large bodies and send a little take what they send, and give way to who sends."""
    resend = play("resend", tmp_path, max_body=1 << 20)
    async with running(database, resend, max_in_flight=1 << 20) as service:
        wires = [Wire(*await asyncio.open_connection(*_place(service))) for _ in range(40)]
        for one in wires:
            await one.send(head_of(Post(headers={}, body=b""), length=1 << 20) + b"x" * 60_000)
        statuses = [(await service.post("resend", post)).status_code for post in posts(resend, 20)]
        assert statuses == [200] * 20
        for one in wires:
            one.close()
        await until(lambda: _in_flight(service, 0))


async def _in_flight(service: Running, amount: int) -> bool:
    metrics = (await service.client.get(f"{service.admin_url}/metrics")).text
    return f"receiver_in_flight_bytes {float(amount)}" in metrics


def _place(service: Running) -> tuple[str, int]:
    parts = urlsplit(service.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


async def test_idle_connections_make_room(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """at the limit of connections the one that has been idle longest is closed for a new one."""
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)
    resend = play("resend", tmp_path)
    (post,) = posts(resend, 1)
    async with running(database, resend) as service:
        old = Wire(*await asyncio.open_connection(*_place(service)))
        await old.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await old.response())[0] == 200
        wires = [old, *[Wire(*await asyncio.open_connection(*_place(service))) for _ in range(5)]]
        await wires[-1].send(head_of(post) + post.body)
        assert (await wires[-1].response())[0] == 200
        for one in wires[:3]:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await one.response()
        for one in wires:
            one.close()


async def test_a_stop_answers_what_comes_at_the_last_moment(database: str, tmp_path: Path) -> None:
    """an open connection gets one more request answered after the stop has begun, with the word that it ends."""
    resend = play("resend", tmp_path)
    first, last = posts(resend, 2)
    async with running(database, resend) as service, wire(service) as one:
        await one.send(head_of(first) + first.body)
        assert (await one.response())[0] == 200
        service.stop.set()
        await until(lambda: _refuses(service))
        await one.send(head_of(last) + last.body)
        status, head, _ = await one.response()
        assert (status, b"connection: close" in head) == (200, True)
        assert await one.ended() == b""
        assert await service.count("events") == 2


async def _refuses(service: Running) -> bool:
    try:
        _, writer = await asyncio.open_connection(*_place(service))
    except OSError:
        return True
    writer.close()
    return False


@pytest.mark.parametrize("how", ["reset", "http 1.0", "too many"])
async def test_requests_that_wait_behind_another_give_back_their_bytes(database: str, tmp_path: Path, how: str) -> None:
    """pipelined requests whose connection ends before their turn take nothing of the byte budget with them."""
    resend = play("resend", tmp_path)
    (good,) = posts(resend, 1)
    unsigned = head_of(Post(headers={}, body=b"x" * 1000)) + b"x" * 1000
    first = head_of(good, version="1.0") if how == "http 1.0" else head_of(good)
    first = first.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
    async with running(database, resend) as service:
        foreign = await asyncpg.connect(database)
        transaction = foreign.transaction()
        await transaction.start()
        await foreign.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")  # so that the first one takes its time
        reader, writer = await asyncio.open_connection(*_place(service))
        writer.write(first + good.body + unsigned * (70 if how == "too many" else 30))
        await writer.drain()
        if how == "too many":
            assert await reader.read() == b""
        else:
            await until(lambda: _held(service, 30_000))
        if how == "reset":
            writer.transport.abort()
        await transaction.rollback()
        await foreign.close()
        await until(lambda: _in_flight(service, 0))
        writer.close()


async def test_bodies_that_nobody_wants_are_no_burden(database: str, tmp_path: Path) -> None:
    """requests to no source, whose bodies come in two parts, leave nothing behind, neither memory nor bytes counted."""
    resend = play("resend", tmp_path)
    post, refused = posts(resend, 1)[0], b"POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nx: "
    async with running(database, resend, max_in_flight=20_000) as service, wire(service) as one:
        tracemalloc.start()
        for _ in range(200):
            await one.send(refused + b"y" * 30_000 + b"\r\n\r\na")
            await one.response()
            await one.send(b"b")
        await one.send(head_of(post) + post.body)
        assert (await one.response())[0] == 200
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 1_000_000
        await until(lambda: _in_flight(service, 0))


async def _held(service: Running, least: int) -> bool:
    metrics = (await service.client.get(f"{service.admin_url}/metrics")).text
    found = re.search(r"^receiver_in_flight_bytes (.+)$", metrics, re.MULTILINE)
    return found is not None and float(found[1]) >= least


async def test_a_refusal_keeps_its_place_among_pipelined_requests(database: str, tmp_path: Path) -> None:
    """what is refused before its body ends the connection after it: a later request never gets its place."""
    resend = play("resend", tmp_path, max_body=100_000)
    first, later = posts(resend, 2)
    large = head_of(Post(headers={}, body=b""), length=200_000)
    async with running(database, resend) as service, wire(service) as one:
        await one.send(head_of(first) + first.body + large + head_of(later) + later.body)
        assert [(await one.response())[0] for _ in range(2)] == [200, 413]
        assert await one.ended() == b""
        assert await service.count("events") == 1


async def test_answers_that_nobody_reads_are_not_piled_up(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a client that sends and never reads is read no further once its answers do not go out, and is cut off."""
    monkeypatch.setattr(http, "HEAD_TIME", 1.0)
    requests = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * 50
    async with running(database, play("resend", tmp_path)) as service:
        _, writer = await asyncio.open_connection(*_place(service), limit=1)  # the reader stops after two bytes
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tracemalloc.start()
        cut = False
        for _ in range(4000):
            writer.write(requests)
            try:
                await asyncio.wait_for(writer.drain(), 10)
            except ConnectionError:
                cut = True
                break
            await asyncio.sleep(0.002)  # so that not too many come in one read, which would end it before
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert cut
        assert held < 5_000_000
        writer.close()


async def test_an_unfinished_second_request_has_its_own_deadline(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a whole request with a piece of another behind it is answered, and the piece must be continued in time."""
    monkeypatch.setattr(http, "HEAD_TIME", 0.4)
    resend = play("resend", tmp_path)
    (post,) = posts(resend, 1)
    async with running(database, resend) as service, wire(service) as one:
        await one.send(head_of(post) + post.body + b"GET /he")
        assert (await one.response())[0] == 200
        assert (await one.response())[0] == 408
        assert await one.ended() == b""


async def test_bytes_one_by_one_buy_no_time(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a head that comes byte by byte must be whole as soon as one that does not come at all."""
    monkeypatch.setattr(http, "HEAD_TIME", 0.5)
    async with running(database, play("resend", tmp_path)) as service, wire(service) as one:

        async def drip() -> None:
            for byte in b"GET /healthz HTTP/1.1\r\nHost: " + b"x" * 1000:
                await one.send(bytes([byte]))
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert (await one.response())[0] == 408
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_finished_connection_ends_even_if_the_client_waits(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """after the last answer a connection is cut when the client does not close it, and garbage does no harm."""
    monkeypatch.setattr(http, "LINGER_TIME", 0.3)
    async with running(database, play("resend", tmp_path)) as service:
        reader, writer = await asyncio.open_connection(*_place(service))
        writer.write(
            f"GET /healthz HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode() + b"garbage \x00 " * 50
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        try:
            async with asyncio.timeout(10):
                while True:  # until the other side is gone altogether, not only done with writing
                    writer.write(b"more")
                    await writer.drain()
                    await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        writer.close()


async def test_many_offers_of_another_protocol_in_one_write(database: str, tmp_path: Path) -> None:
    """as many pipelined requests as are allowed may each offer an upgrade."""
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with running(database, play("resend", tmp_path)) as service, wire(service) as one:
        await one.send(request * 60)
        assert {(await one.response())[0] for _ in range(60)} == {200}


async def test_many_small_parts_are_one_body(database: str, tmp_path: Path) -> None:
    """a body of very many small chunks is put together as it comes, and counted by its bytes."""
    resend = play("resend", tmp_path, max_body=1 << 20)
    async with running(database, resend) as service, wire(service) as one:
        head = head_of(Post(headers={}, body=b""), "resend", "Transfer-Encoding: chunked")
        parts = b"2\r\nxx\r\n" * 100_000
        tracemalloc.start()
        await one.send(head.replace(b"Content-Length: 0\r\n", b"") + parts)
        await until(lambda: _held(service, 200_000))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 5_000_000
        await one.send(b"0\r\n\r\n")
        assert (await one.response())[0] == 401


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.binary(max_size=300), max_size=5), valid=st.booleans())
def test_no_bytes_break_the_listener(listener: _Listener, data: list[bytes], valid: bool) -> None:  # noqa: FBT001 - hypothesis fills it
    """whatever bytes come, in whatever pieces, the listener answers or closes, and serves the next one."""
    listener.feed([b"POST /webhooks/x HTTP/1.1\r\n", *data] if valid else data)


class _Listener:
    """A listener without a service behind it, in a loop of its own."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.budget = Budget(1 << 20)

    def feed(self, pieces: Sequence[bytes]) -> None:
        self.runner.run(self._feed(pieces))

    async def _feed(self, pieces: Sequence[bytes]) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        listener = http.Listener(_Echo(), self.budget)
        await listener.start(sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        await listener.stop(within=1)
        assert self.budget.used == 0


class _Echo:
    body_time = 1.0

    def begin(self, request: Request) -> Answer | None:
        request.limit = 1000
        return None if request.method == b"POST" else Answer(status=404)

    def arrived(self, request: Request) -> None:
        request.connection.answer(request, Answer(status=200, body=bytes(request.body)))

    def give_up(self, _request: Request, _why: GaveUp) -> Answer:
        return Answer(status=413)


@pytest.fixture
def listener() -> Iterator[_Listener]:
    one = _Listener()
    yield one
    one.runner.close()
