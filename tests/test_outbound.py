"""The guarded HTTP client against real servers on this machine."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

from receiver.errors import Unavailable
from receiver.outbound import Forbidden, Outbound, is_public

PUBLIC = "93.184.216.34"
Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server on 127.0.0.1 that counts connections and keeps the heads of the requests."""

    def __init__(self, answer: Answering | bytes) -> None:
        self.answer = answer
        self.connections = 0
        self.heads: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
                await writer.drain()
            else:
                await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left, which some of these tests are about
        finally:
            writer.close()

    @property
    def place(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@asynccontextmanager
async def site(answer: Answering | bytes, trust: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    found = Site(answer)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=trust)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


@asynccontextmanager
async def outbound(**options: Any) -> AsyncIterator[Outbound]:
    client = Outbound(**options)
    try:
        yield client
    finally:
        await client.aclose()


def ok(body: bytes, *, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n".encode() + body


class Dial(httpcore.AsyncNetworkBackend):
    """Notes where a connection was to go, and leads every one to a local port."""

    def __init__(self, port: int, *, down: Sequence[str] = ()) -> None:
        self.port = port
        self.down = down
        self.dialled: list[str] = []
        self._real = httpcore.AnyIOBackend()

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.dialled.append(host)
        if host in self.down:
            raise httpcore.ConnectError("down")
        return await self._real.connect_tcp("127.0.0.1", self.port, timeout)


def resolving(*answers: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that gives another answer every time it is asked."""
    left = list(answers)

    async def resolve(_: str, __: int) -> Sequence[str]:
        return left.pop(0)

    return resolve


async def test_an_allowed_place_is_fetched() -> None:
    """the body of a 200 answer comes back, asked for with the host's name and without compression"""
    async with site(ok(b"hello")) as here, outbound(allow=[here.place]) as client:
        assert await client.fetch(here.url + "a?b=c") == b"hello"
        head = here.heads[0].lower()
        assert head.startswith("get /a?b=c http/1.1\r\n")
        assert f"host: 127.0.0.1:{here.port}\r\n" in head
        assert "accept-encoding: identity\r\n" in head


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.127.255.254",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:93.184.216.34",
        "64:ff9b::7f00:1",
        "64:ff9b::5db8:d822",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    """an address that is private, special, or leads to an IPv4 address inside it is not public"""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", [PUBLIC, "172.32.0.1", "100.128.0.1", "2606:2800:220:1::1", "2a00:1450::1"])
def test_public_addresses(address: str) -> None:
    """ordinary addresses of the internet are public"""
    assert is_public(ip_address(address))


async def test_a_name_that_resolves_to_this_machine_is_refused() -> None:
    """a public-looking name for 127.0.0.1 is refused before anything is sent"""
    async with site(ok(b"secret")) as here:
        dial = Dial(here.port)
        async with outbound(resolve=resolving(["127.0.0.1"]), dial=dial) as client:
            with pytest.raises(Forbidden, match=r"hooks\.example\.com resolves to 127\.0\.0\.1"):
                await client.fetch("https://hooks.example.com/")
        assert (dial.dialled, here.connections) == ([], 0)


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
async def test_spellings_of_this_machine_are_refused(host: str) -> None:
    """this machine is refused in every spelling that the system's resolver understands"""
    async with outbound() as client:
        with pytest.raises(Unavailable):
            await client.fetch(f"https://{host}:9/")


async def test_one_private_address_among_public_ones_is_refused() -> None:
    """all addresses of a name are looked at, not only the one that would be used"""
    async with outbound(resolve=resolving([PUBLIC, "10.0.0.1"]), dial=Dial(9)) as client:
        with pytest.raises(Forbidden):
            await client.fetch("https://hooks.example.com/")


@pytest.mark.parametrize("address", ["fe80::1%eth0", "not an address"])
async def test_odd_answers_of_a_resolver_are_refused(address: str) -> None:
    """a zone, or what is no address at all, never counts as public"""
    async with outbound(resolve=resolving([address]), dial=Dial(9)) as client:
        with pytest.raises(Forbidden):
            await client.fetch("https://hooks.example.com/")


async def test_rebinding_finds_the_vetted_address(certified: Certified) -> None:
    """a name that turns private after it was looked at is called at the address that was looked at"""
    async with site(ok(b"hello"), certified.server("hooks.example.com")) as here:
        dial = Dial(here.port)
        resolve = resolving([PUBLIC], ["127.0.0.1"])
        async with outbound(resolve=resolve, dial=dial, trust=certified.client) as client:
            assert await client.fetch("https://hooks.example.com/") == b"hello"
            assert dial.dialled == [PUBLIC]
            with pytest.raises(Forbidden):  # and a later call looks anew
                await client.fetch("https://hooks.example.com/")
            assert dial.dialled == [PUBLIC]


async def test_tls_checks_the_name_and_not_the_address(certified: Certified) -> None:
    """the certificate must be that of the name in the URL, although the connection goes to an address"""
    async with site(ok(b"hello"), certified.server("other.example.com")) as here:
        async with outbound(resolve=resolving([PUBLIC]), dial=Dial(here.port), trust=certified.client) as client:
            with pytest.raises(Unavailable, match="certificate"):
                await client.fetch("https://hooks.example.com/")
        assert here.heads == []


async def test_a_self_signed_server_is_refused(certified: Certified) -> None:
    """without a configured authority the public roots decide"""
    async with (
        site(ok(b"hello"), certified.server("hooks.example.com")) as here,
        outbound(resolve=resolving([PUBLIC]), dial=Dial(here.port)) as client,
    ):
        with pytest.raises(Unavailable, match="certificate"):
            await client.fetch("https://hooks.example.com/")


async def test_the_next_address_is_tried(certified: Certified) -> None:
    """an address that does not answer is followed by the next vetted one"""
    async with site(ok(b"hello"), certified.server("hooks.example.com")) as here:
        dial = Dial(here.port, down=[PUBLIC])
        resolve = resolving([PUBLIC, "93.184.216.35"])
        async with outbound(resolve=resolve, dial=dial, trust=certified.client) as client:
            assert await client.fetch("https://hooks.example.com/") == b"hello"
            assert dial.dialled == [PUBLIC, "93.184.216.35"]


async def test_redirects_are_not_followed() -> None:
    """a redirect is an error, and the place it names is not called"""
    async with site(ok(b"secret")) as target:
        moved = ok(b"", status="302 Found", extra=f"Location: {target.url}\r\n")
        async with site(moved) as here, outbound(allow=[here.place, target.place]) as client:
            with pytest.raises(Unavailable, match="302, a redirect, which is not followed"):
                await client.fetch(here.url)
        assert target.connections == 0


@pytest.mark.parametrize("status", ["201 Created", "204 No Content", "403 Forbidden", "404 Not Found", "500 Oh"])
async def test_other_codes_than_200_are_errors(status: str) -> None:
    """only 200 is success"""
    async with site(ok(b"", status=status)) as here, outbound(allow=[here.place]) as client:
        with pytest.raises(Unavailable, match=status[:3]):
            await client.fetch(here.url)


async def test_an_endless_body_is_cut() -> None:
    """a body without end is given up at the limit, not read into memory"""
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 1 << 28:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with site(endless) as here, outbound(allow=[here.place]) as client:
        with pytest.raises(Unavailable, match="more than 1000 bytes"):
            await client.fetch(here.url, max_bytes=1000)
    assert sent < 1 << 26


async def test_the_limit_is_exact() -> None:
    """a body of exactly the limit is fine, one more byte is not"""
    async with site(ok(b"x" * 100)) as here, outbound(allow=[here.place]) as client:
        assert len(await client.fetch(here.url, max_bytes=100)) == 100
        with pytest.raises(Unavailable):
            await client.fetch(here.url, max_bytes=99)


async def test_a_slow_body_is_given_up() -> None:
    """a server that keeps trickling, so that no single read is late, still ends at the total"""
    gone = asyncio.Event()

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not gone.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.wait([asyncio.ensure_future(gone.wait())], timeout=0.02)

    async with site(trickle) as here, outbound(allow=[here.place], total=0.4) as client:
        with pytest.raises(Unavailable, match=r"longer than 0\.4 s"):
            await client.fetch(here.url)
        gone.set()


async def test_a_resolver_that_hangs_is_given_up() -> None:
    """the total covers the look-up of the name too"""

    async def never(_: str, __: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with outbound(resolve=never, total=0.2) as client:
        with pytest.raises(Unavailable):
            await client.fetch("https://hooks.example.com/")


async def test_what_does_not_answer_or_resolve_is_unavailable() -> None:
    """a closed port and an unknown name are ordinary, temporary errors"""
    async with site(ok(b"")) as here:
        port = here.port
    async with outbound(allow=[("127.0.0.1", port)]) as client:
        with pytest.raises(Unavailable, match="could not be called") as caught:
            await client.fetch(f"http://127.0.0.1:{port}/")
        assert not isinstance(caught.value, Forbidden)
    async with outbound() as client:
        with pytest.raises(Unavailable, match="could not be called"):
            await client.fetch("https://no-such-host.invalid/")


async def test_a_server_that_talks_nonsense_is_unavailable() -> None:
    """an answer that is no HTTP, or that ends too early, is a temporary error"""
    for answer in (b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", b""):
        async with site(answer) as here, outbound(allow=[here.place]) as client:
            with pytest.raises(Unavailable, match="could not be called"):
                await client.fetch(here.url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "/relative",
        "",
        "https://",
        "https:///path",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/\r\nX: y",
        "https://example.com/\n",
        "https://exa mple.com/",
        "https://example.com:99999/",
        "https://example.com:port/",
        "https://\N{CYRILLIC SMALL LETTER IE}xample.com/",
        "https://example.com/" + "x" * 5000,
        "http://crt.r2m01.amazontrust.com:8080/r2m01.cer",
        "http://crt.r2m01.amazontrust.com.evil.example/r2m01.cer",
    ],
)
async def test_urls_that_are_never_called(url: str) -> None:
    """plain http, credentials, strange characters and what is no URL are refused before the name is looked up"""

    async def untouched(host: str, _: int) -> Sequence[str]:
        raise AssertionError(host)

    async with outbound(resolve=untouched) as client:
        with pytest.raises(Forbidden):
            await client.fetch(url)


async def test_certificate_issuers_may_be_plain_http() -> None:
    """certificate authorities publish over http; they are vetted like everybody else"""
    async with site(ok(b"certificate")) as here:
        dial = Dial(here.port)
        async with outbound(resolve=resolving([PUBLIC], ["10.0.0.1"]), dial=dial) as client:
            url = "http://crt.r2m01.amazontrust.com/r2m01.cer"
            assert await client.fetch(url) == b"certificate"
            with pytest.raises(Forbidden):
                await client.fetch(url)
        assert dial.dialled == [PUBLIC]


async def test_the_allow_list_is_exact() -> None:
    """allowing one port of a host allows no other"""
    async with site(ok(b"a")) as here, site(ok(b"b")) as other, outbound(allow=[here.place]) as client:
        assert await client.fetch(here.url) == b"a"
        with pytest.raises(Forbidden):
            await client.fetch(other.url)
        assert other.connections == 0


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """proxies of the environment are ignored: through one, nobody would look at the addresses"""
    async with site(ok(b"proxied")) as proxy, site(ok(b"direct")) as here:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with outbound(allow=[here.place]) as client:
            assert await client.fetch(here.url) == b"direct"
        assert proxy.connections == 0


class Certified:
    """A certificate authority of the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        authority = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
        self.authority = directory / "authority.pem"
        self.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.client = ssl.create_default_context(cafile=self.authority)

    def server(self, host: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([]), key.public_key(), x509.SubjectAlternativeName([x509.DNSName(host)]))
        path = self._directory / f"{host}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        builder = builder.not_valid_after(now + timedelta(days=1)).add_extension(extension, critical=True)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    return Certified(tmp_path)


async def test_posting() -> None:
    """a body is posted with its headers, the answer comes back whatever its status, and its body is cut"""
    posted = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        posted.extend(await reader.readexactly(5))
        writer.write(ok(b"x" * 100_000, status="503 Busy", extra="Retry-After: 7\r\n"))
        await writer.drain()

    async with site(answer) as here, outbound(allow=[here.place]) as client:
        got = await client.post(here.url, b"hello", {"Webhook-Id": "a"}, max_bytes=10)
        assert (got.status, got.headers["retry-after"], got.body) == (503, "7", b"x" * 10)
        assert bytes(posted) == b"hello"
        assert here.heads[0].startswith("POST / HTTP/1.1\r\n")
        assert "webhook-id: a\r\n" in here.heads[0].lower()
    async with site(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n") as here, outbound(allow=[here.place]) as client:
        assert (await client.post(here.url, b"hello", {})).status == 302
        assert here.connections == 1


async def test_nothing_is_posted_to_a_private_address() -> None:
    """a POST is guarded as a GET is"""
    async with site(ok(b"")) as here, outbound() as client:
        with pytest.raises(Forbidden):
            await client.post(f"https://localhost:{here.port}/", b"hello", {})
        assert here.connections == 0
