"""The one way out for HTTP. A stranger's text may name the URL: it must never reach the network we stand in.

Names are resolved once per connection; all addresses must be public; the connection goes to one of exactly
these addresses, while TLS still checks the certificate for the name. No proxies from the environment, no
redirects, no credentials in URLs, a limit on bytes and on time.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

import certifi
import httpcore
import httpx
from typing_extensions import override

from receiver.errors import Unavailable

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

CONNECT: Final = 5.0
TOTAL: Final = 10.0
KEPT: Final = 20.0  # seconds for which an unused connection is kept, where any is
MAX_URL: Final = 4096
_URL: Final = re.compile(r"https?://[^/?#@\\ ]+(?:[/?#][^\\ ]*)?")

# Certificate authorities hand out their intermediate certificates over plain http (RFC 5280, 8: https could
# not be verified without them). What comes counts only once it is checked against a root, so http will do.
CERTIFICATE_ISSUERS: Final = re.compile(r"crt\.[a-z0-9]{1,20}\.amazontrust\.com|cacerts\.digicert\.com")

# IANA's registry of special-purpose IPv4 addresses: whatever is not globally reachable, and the 6to4 relays.
# A table of our own, because `ipaddress.is_global` differs between Python's releases.
_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *(
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
        ),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
# IPv6: only global unicast counts as public. That leaves out loopback, link-local, unique local, multicast,
# and IPv4-mapped and NAT64 (64:ff9b::/96, 64:ff9b:1::/48), which lead to an IPv4 address nobody looked at.
_PUBLIC_6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, among them Teredo (2001::/32) and ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


class Forbidden(Unavailable):
    """The URL, or an address its name resolves to, is one that must never be called."""


class Unreachable(Unavailable):
    """There was no connection: nothing was sent."""


def is_public(address: Address) -> bool:
    """Whether the address belongs to the public internet and leads nowhere else."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)


async def resolve_name(host: str, port: int) -> Sequence[str]:
    """All addresses of a host name, or of an address in any spelling the system takes. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to vetted addresses only. The pool above still knows hosts by name, for TLS and `Host`."""

    def __init__(
        self, resolve: Resolve, allow: Collection[tuple[str, int]], dial: httpcore.AsyncNetworkBackend
    ) -> None:
        self._resolve = resolve
        self._allow = allow
        self._dial = dial

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self._vetted(host, port):
            try:
                return await self._dial.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def _vetted(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA cannot encode
            raise httpcore.ConnectError(f"{host} does not resolve") from error
        if (host, port) not in self._allow:
            for address in addresses:
                _require_public(host, address)
        return addresses

    @override
    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise Forbidden("unix sockets are not called")

    @override
    async def sleep(self, seconds: float) -> None:
        await self._dial.sleep(seconds)


def _require_public(host: str, address: str) -> None:
    try:
        public = is_public(ip_address(address.partition("%")[0]))  # "%eth0": the zone of a link-local address
    except ValueError:
        public = False
    if not public:
        raise Forbidden(f"{host} resolves to {address}, which is not a public address")


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    @override
    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


class _GuardedTransport(httpx.AsyncBaseTransport):
    """httpx over a pool of ours: the public way to give httpcore a network backend.

    Connections are not kept unless asked for: calls are rare, and each then stands on a fresh look at the addresses.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, trust: ssl.SSLContext, keep: int) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust,
            network_backend=backend,
            max_connections=max(20, keep),
            max_keepalive_connections=keep,
            keepalive_expiry=KEPT,
        )

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(answer.stream, AsyncIterable)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    @override
    async def aclose(self) -> None:
        await self._pool.aclose()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered. `headers`: by lower-case name. `body`: cut where it was longer than was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Outbound:
    """The guarded HTTP client; one for the whole process, closed with `aclose`.

    `allow`: exact (host, port) pairs that may be private addresses and plain http, for tests.
    `plain_http`: public hosts that may be called without TLS. `connect`, `total`: seconds. `keep`: connections that
    are kept for the next call.
    `resolve`, `dial`, `trust`: the system's resolver, sockets, certifi's roots, unless a test brings its own.
    """

    def __init__(
        self,
        *,
        allow: Collection[tuple[str, int]] = (),
        plain_http: re.Pattern[str] | None = CERTIFICATE_ISSUERS,
        connect: float = CONNECT,
        total: float = TOTAL,
        keep: int = 0,
        resolve: Resolve = resolve_name,
        dial: httpcore.AsyncNetworkBackend | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._allow = frozenset(allow)
        self._plain_http = plain_http
        self._total = total
        trust = trust or ssl.create_default_context(cafile=certifi.where())
        backend = _GuardedBackend(resolve, self._allow, dial or httpcore.AnyIOBackend())
        self._client = httpx.AsyncClient(
            transport=_GuardedTransport(backend, trust, keep),
            timeout=httpx.Timeout(total, connect=connect),
            headers={"user-agent": "email-event-receiver", "accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )

    async def fetch(self, url: str, *, max_bytes: int = 65536) -> bytes:
        """The body of a 200 answer to GET, of at most `max_bytes`.

        Raises Forbidden (nothing was sent) and Unavailable (no answer in time, another status, too large).
        """
        answer = await self._call("GET", url, max_bytes=max_bytes + 1)
        host = httpx.URL(url).host
        if answer.status != httpx.codes.OK:
            redirect = ", a redirect, which is not followed" if 300 <= answer.status < 400 else ""
            raise Unavailable(f"{host} answered {answer.status}{redirect}")
        if len(answer.body) > max_bytes:
            raise Unavailable(f"{host} answered with more than {max_bytes} bytes")
        return answer.body

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], *, max_bytes: int = 4096) -> Answer:
        """The answer to POST, whatever its status; of its body the first `max_bytes`.

        Raises Forbidden and Unreachable (nothing was sent), and Unavailable (no answer in time).
        """
        return await self._call("POST", url, content=content, headers=headers, max_bytes=max_bytes)

    async def ask(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str], *, max_bytes: int
    ) -> Answer:
        """The answer to any method, as `post` has it."""
        return await self._call(method, url, content=content, headers=headers, max_bytes=max_bytes)

    async def _call(
        self, method: str, url: str, *, max_bytes: int, content: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> Answer:
        target = self._checked(url)
        request = self._client.build_request(method, target, content=content, headers=dict(headers))
        try:
            async with asyncio.timeout(self._total):
                return await self._answer(request, max_bytes)
        except TimeoutError as error:
            raise Unavailable(f"{target.host} took longer than {self._total:g} s") from error
        except _NO_CONNECTION as error:
            raise Unreachable(f"{target.host} could not be called: {_cause(error)}") from error
        except (httpx.HTTPError, httpx.StreamError, *_HTTPCORE_ERRORS) as error:
            raise Unavailable(f"{target.host} could not be called: {_cause(error)}") from error

    async def _answer(self, request: httpx.Request, max_bytes: int) -> Answer:
        answer = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for part in answer.aiter_raw():
                body += part
                if len(body) >= max_bytes:
                    break
            return Answer(answer.status_code, dict(answer.headers.items()), bytes(body[:max_bytes]))
        finally:
            await answer.aclose()

    def _checked(self, text: str) -> httpx.URL:
        if len(text) > MAX_URL or not text.isascii() or not text.isprintable() or _URL.fullmatch(text) is None:
            raise Forbidden("the URL has credentials or characters that must not be in it, or is none of http")
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError) as error:
            raise Forbidden("the URL cannot be understood") from error
        if not url.host or not 0 < (url.port or 443) < 65536:
            raise Forbidden("the URL has no host, or a port that does not exist")
        if url.scheme != "https" and not (url.scheme == "http" and self._may_be_plain(url)):
            raise Forbidden(f"{url.host} may only be called with https")
        return url

    def _may_be_plain(self, url: httpx.URL) -> bool:
        if (url.host, url.port or 80) in self._allow:
            return True
        return url.port is None and self._plain_http is not None and self._plain_http.fullmatch(url.host) is not None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


_NO_CONNECTION: Final = (
    *(httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout),
    *(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout),
)
_HTTPCORE_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


def _cause(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
