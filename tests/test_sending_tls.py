"""SMTP over TLS, with a real server and an authority of the tests' own: nothing is said to a server that is another."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from receiver.sending.transport import Outcome, Retry, Sent
from tests.smtp_peer import Peer, smtp_peer
from tests.test_outbound import Certified
from tests.test_sending_smtp import outcome

Tls = Literal["starttls", "tls"]
BOTH: tuple[Tls, ...] = ("starttls", "tls")

# aiosmtpd knows nothing of the TLS below it.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@asynccontextmanager
async def served(tls: Tls, certificate: ssl.SSLContext) -> AsyncIterator[Peer]:
    async with smtp_peer(Peer(passwords={"secret"}), authenticated=True, **{tls: certificate}) as peer:
        yield peer


async def sent(peer: Peer, tls: str, **changes: Any) -> Outcome:
    return await outcome(peer, **{"host": "localhost", "tls": tls, "username": "shop", "password": "secret", **changes})


@pytest.mark.parametrize("tls", BOTH)
async def test_mail_goes_out_encrypted(tls: Tls, tmp_path: Path) -> None:
    """by STARTTLS or TLS from the first byte the message arrives, after a login, where the certificate is trusted"""
    authority = Certified(tmp_path)
    async with served(tls, authority.server("localhost")) as peer:
        assert isinstance(await sent(peer, tls, ca_file=str(authority.authority)), Sent)
        assert (len(peer.taken), peer.logins) == (1, 1)


@pytest.mark.parametrize("tls", BOTH)
@pytest.mark.parametrize("trusted", [False, True])
async def test_nothing_is_said_to_a_stranger(tls: Tls, trusted: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a case
    """a certificate of nobody we trust, or for another name, ends the connection before the password is said"""
    authority = Certified(tmp_path)
    host = "elsewhere.example" if trusted else "localhost"
    changes = {"ca_file": str(authority.authority)} if trusted else {}
    async with served(tls, authority.server(host)) as peer:
        found = await sent(peer, tls, **changes)
        assert isinstance(found, Retry)
        assert "no connection" in found.detail
        assert (peer.taken, peer.logins) == ([], 0)


async def test_no_password_goes_out_in_clear() -> None:
    """a server that does not offer STARTTLS gets neither password nor message: the offer may have been taken away"""
    async with smtp_peer(Peer(passwords={"secret"}), authenticated=True) as peer:
        assert isinstance(await sent(peer, "starttls"), Retry)
        assert (peer.taken, peer.logins) == ([], 0)
