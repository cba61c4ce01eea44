"""A real SMTP server (aiosmtpd) that answers as it is told, and keeps what it has taken."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message as Mail
from email.policy import SMTPUTF8
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

DROP = "drop"
# Of a configuration: the account that sends through the server on `port`.
ACCOUNT = """
[accounts.main]
transport = "smtp"
from = "Shop <hello@shop.example>"
host = "127.0.0.1"
port = {port}
tls = "none"
"""


@dataclass
class Peer:
    """`mail`, `rcpt`, `data`: the next answers to these commands, the last of which stays; none: it is taken.

    `drop`: the connection ends instead. `hold`: a message is answered only once it is set.
    `closes`: the connection, after it has refused a password. `silent`: to MAIL it says nothing any more; `waits`:
    how many wait for it.
    """

    port: int = 0
    mail: deque[str] = field(default_factory=deque)
    rcpt: deque[str] = field(default_factory=deque)
    data: deque[str] = field(default_factory=deque)
    taken: list[Mail] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    passwords: set[str] = field(default_factory=set)
    logins: int = 0
    connections: int = 0
    closes: bool = False
    silent: bool = False
    waits: int = 0
    hold: asyncio.Event | None = None

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked.append(asyncio.get_running_loop().time())
        if self.silent:
            self.waits += 1
            await asyncio.sleep(3600)  # aiosmtpd cancels it with the connection
        said = await self._next(self.mail, server)
        if said.startswith("2"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return said

    async def handle_RCPT(  # noqa: N802 - likewise
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        said = await self._next(self.rcpt, server)
        if said.startswith("2"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - likewise
        if self.hold is not None:
            await self.hold.wait()
        said = await self._next(self.data, server)
        if said.startswith("2"):
            content = envelope.content
            assert isinstance(content, bytes)
            self.taken.append(message_from_bytes(content, policy=SMTPUTF8))
            self.envelopes.append(envelope)
            self.times.append(asyncio.get_running_loop().time())
        return said

    async def _next(self, script: deque[str], server: SMTP) -> str:
        said = (script.popleft() if len(script) > 1 else script[0]) if script else "250 OK"
        if said == DROP:
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
            await asyncio.sleep(3600)  # aiosmtpd cancels it with the connection
        return said

    def authenticate(self, *given: Any) -> AuthResult:
        """The last of what aiosmtpd gives has the password."""
        self.logins += 1
        server, data = given[0], given[-1]
        found = data.password.decode() in self.passwords
        if not found and self.closes:
            asyncio.get_running_loop().call_later(0.05, server.transport.close)
        return AuthResult(success=found, handled=False)


@asynccontextmanager
async def smtp_peer(
    peer: Peer | None = None,
    *,
    authenticated: bool = False,
    tls: ssl.SSLContext | None = None,
    starttls: ssl.SSLContext | None = None,
) -> AsyncIterator[Peer]:
    """The server on a free port. `tls`: it speaks nothing else; `starttls`: it takes no mail without."""
    peer = peer or Peer()

    def made() -> SMTP:
        peer.connections += 1
        return SMTP(
            peer,
            enable_SMTPUTF8=True,
            decode_data=False,
            auth_required=authenticated,
            auth_require_tls=starttls is not None,
            authenticator=peer.authenticate if authenticated else None,
            hostname="peer.example",
            tls_context=starttls,
            require_starttls=starttls is not None,
        )

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", peer.port, ssl=tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        if hasattr(server, "close_clients"):
            server.close_clients()
