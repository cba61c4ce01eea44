"""SMTP (RFC 5321): connections that are kept, and who each reply is about.

A reply to AUTH or MAIL is about us, one to RCPT about the recipient, one after the final dot about the message. Where
none comes after the final dot, the server may have taken the message, so that nobody knows: RFC 5321, section
4.5.3.2.6, lets it take ten minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, Self, TypeAlias

import certifi
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectResponseError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from pydantic import Field, model_validator

from receiver.contract import Secrets
from receiver.payload import clean_text
from receiver.sending.access_tokens import AccessTokens, Grant, NoToken
from receiver.sending.accounts import AccountSettings
from receiver.sending.api import outbound_to
from receiver.sending.message import Mailbox, Message, wire_address
from receiver.sending.mime import mime_of, needs_utf8
from receiver.sending.transport import Outcome, Pause, Rejected, Retry, Sent, Unknown

COMMAND: Final = 300.0  # seconds for a reply (RFC 5321, section 4.5.3.2)
FINAL_DOT: Final = 600.0  # likewise, after the message (section 4.5.3.2.6)
CLOSING: Final = 421
_NO_LOGIN: Final = frozenset({530, 534, 535, 538})  # said to MAIL of whom we log in as (RFC 4954, section 6)
KEPT: Final = 15.0  # seconds for the first reply on a connection that was kept: it may be dead without a word
IDLE: Final = 30.0  # seconds that a connection is kept unused; servers end it after some minutes
USES: Final = 100  # messages after which a connection is given up: some servers limit them
_OTHER_METHOD: Final = frozenset({500, 501, 502, 503, 504, 534})  # it is not known, or too weak for this user
WITHOUT_STARTTLS: Final = 'Set tls = "tls" or "none"'  # how a detail ends that says so of a server
_PORTS: Final = {"tls": 465, "starttls": 587, "none": 25}
_ENHANCED: Final = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})\b")
_ADDRESS: Final = re.compile(r"\S+@\S+")


LogIn: TypeAlias = Callable[[SMTP], Awaitable[object]]


class Settings(AccountSettings):
    """An SMTP server that takes our mail."""

    host: str = Field(description="name of the server", examples=["smtp.example.net"])
    port: int | None = Field(None, ge=1, le=65535, description="465 with tls, 587 with starttls, 25 without")
    tls: Literal["starttls", "tls", "none"] = Field("starttls", description="how the connection is encrypted")
    ca_file: str | None = Field(None, description="certificates to trust, where the server's is of your own authority")
    username: str | None = Field(None, description="the account's name")
    password: Secrets = Field([], description="its password(s): the next is tried where the first is refused")
    token_url: str | None = Field(
        None,
        description="OAuth 2.0 in place of a password: where access tokens come from",
        examples=["https://login.microsoftonline.com/<tenant>/oauth2/v2.0/token"],
    )
    client_id: str | None = Field(None, description="OAuth 2.0: the client's id")
    client_secret: Secrets = Field([], description="OAuth 2.0: its secret(s): the next is tried where one is refused")
    scope: str | None = Field(
        None, description="OAuth 2.0: what is asked for", examples=["https://outlook.office365.com/.default"]
    )
    connect_timeout: float = Field(30, gt=0, le=300, description="seconds that connecting may take")
    connections: int = Field(5, ge=1, le=50, description="connections that are kept for the next messages")

    @model_validator(mode="after")
    def _check_secrets(self) -> Self:
        if self.token_url or self.client_id or self.client_secret:
            if not (self.token_url and self.client_id and self.client_secret and self.username):
                raise ValueError("needs username, token_url, client_id and client_secret together")
            if self.password:
                raise ValueError("has a password and a token_url: which of them is meant?")
        elif bool(self.username) != bool(self.password):
            raise ValueError("needs username and password together")
        if self.username and self.tls == "none" and not self.private:
            raise ValueError("would log in in clear: use tls, or private = true inside your own network")
        return self

    @property
    def grant(self) -> Grant | None:
        """What access tokens are asked for with; None: it logs in with a password, or not at all."""
        if not self.token_url or not self.client_id:
            return None
        return Grant(
            token_url=self.token_url, client_id=self.client_id, client_secrets=self.client_secret, scope=self.scope
        )


class _Closed(Exception):
    """A connection that was kept is closed, as the server may do at any time, or silent; nothing was sent."""

    def __init__(self, *, silent: bool) -> None:
        super().__init__()
        self.silent = silent


class _Connection:
    """One connection: when it was last used, and how often. `clean`: no transaction is open."""

    def __init__(self, client: SMTP) -> None:
        self.client = client
        self.clean = True
        self.uses = 0
        self.used_at = time.monotonic()

    @property
    def worn(self) -> bool:
        return self.uses >= USES or time.monotonic() - self.used_at > IDLE or not self.client.is_connected


class Smtp:
    """Sends through one server. `final_dot`: seconds to wait for the last reply."""

    def __init__(self, settings: Settings, *, command: float = COMMAND, final_dot: float = FINAL_DOT) -> None:
        self._settings = settings
        self._command = command
        self._final_dot = final_dot
        self._idle: list[_Connection] = []
        self._password = 0  # which of them the server took last
        self._trust: ssl.SSLContext | None = None
        grant = settings.grant
        self._tokens = AccessTokens(grant, outbound_to(grant.token_url, private=settings.private)) if grant else None

    async def send(self, message: Message) -> Outcome:
        """Hand the message to the server."""
        try:
            content = mime_of(message, datetime.now(UTC)).as_bytes()
        except (ValueError, UnicodeError) as error:
            return Rejected(detail=f"the message cannot be written: {_hidden(str(error))}")
        return await self._sent(message, content)

    async def _sent(self, message: Message, content: bytes) -> Outcome:
        try:
            connection = await self._connection()
        except SMTPAuthenticationError as error:
            detail = f"the server refuses our credentials: {_said(error)}"
            return Pause(detail=detail) if error.code >= 500 else Retry(detail=detail, account=True)
        except NoToken as error:
            return Pause(detail=str(error)) if error.ours else Retry(detail=str(error), account=True)
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            busy = isinstance(error, SMTPConnectResponseError)
            return Retry(detail=f"no connection: {_said(error)}{_hint(error)}", account=busy)
        try:
            outcome, usable = await self._talk(connection, message, content)
        except _Closed as closed:
            connection.client.close()
            if closed.silent:  # the others go the same way
                await self._drop_idle()
            return await self._sent(message, content)
        except BaseException:
            connection.client.close()
            raise
        await self._put_back(connection, usable=usable, clean=isinstance(outcome, Sent))
        return outcome

    async def aclose(self) -> None:
        """End the connections that are kept."""
        await self._drop_idle()
        if self._tokens is not None:
            await self._tokens.aclose()

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_quit(one.client) for one in idle))

    async def _talk(self, connection: _Connection, message: Message, content: bytes) -> tuple[Outcome, bool]:
        """What became of it, and whether the connection can be used again. Raises _Closed."""
        try:
            await self._envelope(connection, message)
        except (SMTPException, OSError, TimeoutError) as error:
            if connection.uses and _is_end(error):
                raise _Closed(silent=isinstance(error, TimeoutError)) from error
            return _before_the_message(error, self._settings, message.sender)
        except (ValueError, UnicodeError) as error:  # the driver's, of an address
            return Rejected(detail=f"an address cannot be written: {_hidden(str(error))}"), False
        try:
            _, said = await connection.client.data(content, timeout=self._final_dot)
        except (SMTPException, OSError, TimeoutError) as error:
            return _after_the_message(error)
        return Sent(detail=_hidden(said)), True

    async def _envelope(self, connection: _Connection, message: Message) -> None:
        client = connection.client
        utf8 = needs_utf8(message)
        if utf8 and not client.supports_extension("smtputf8"):
            raise SMTPNotSupported("the server does not take addresses with letters outside of ASCII")
        options, encoding = (["SMTPUTF8", "BODY=8BITMIME"], "utf-8") if utf8 else ([], "ascii")
        limit = self._command
        first = min(limit, KEPT) if connection.uses else limit
        await client.mail(wire_address(message.sender.address), options=options, encoding=encoding, timeout=first)
        await client.rcpt(wire_address(message.to.address), encoding=encoding, timeout=limit)
        for one in (*message.cc, *message.bcc):  # a copy that is refused does not keep the message from its recipient
            try:
                await client.rcpt(wire_address(one.address), encoding=encoding, timeout=limit)
            except SMTPRecipientRefused as error:
                if error.code == CLOSING:
                    raise

    # Connections -----------------------------------------------------------------------------------------------------

    async def _connection(self) -> _Connection:
        while self._idle:
            kept = self._idle.pop()
            if not kept.worn and (kept.clean or await _is_reset(kept.client)):
                return kept
            await _quit(kept.client)
        return _Connection(await self._connect())

    async def _connect(self) -> SMTP:
        if self._tokens is not None:
            return await self._with_token(self._tokens)
        if self._settings.username:
            return await self._with_password(self._settings.username)
        return await self._open(None)

    async def _open(self, log_in: LogIn | None) -> SMTP:
        """A connection that may send. A server may close after it has refused: each secret has one of its own."""
        settings = self._settings
        client = SMTP(
            hostname=settings.host,
            port=settings.port or _PORTS[settings.tls],
            use_tls=settings.tls == "tls",
            start_tls=settings.tls == "starttls",
            tls_context=self._context() if settings.tls != "none" else None,
            timeout=settings.connect_timeout,
        )
        try:
            await client.connect()
            if client.is_ehlo_or_helo_needed:
                await client.ehlo()
            if log_in is not None:
                await log_in(client)
        except BaseException:
            client.close()
            raise
        return client

    async def _with_token(self, tokens: AccessTokens) -> SMTP:
        """A token that was good and is refused may have been revoked: then another one is tried."""
        while True:
            token = await tokens.get()
            try:
                client = await self._open(partial(_by_token, username=self._settings.username or "", token=token))
            except SMTPAuthenticationError as error:
                if error.code < 500 or not tokens.refused(token):
                    raise
            else:
                tokens.accepted(token)
                return client

    async def _with_password(self, username: str) -> SMTP:
        """With the password that was taken last; where it is refused, with the others: they are being rotated."""
        passwords = self._settings.password
        for left in reversed(range(len(passwords))):
            number = self._password
            try:
                return await self._open(
                    partial(_log_in, username=username, password=passwords[number].get_secret_value())
                )
            except SMTPAuthenticationError as error:
                if error.code < 500:
                    raise
                self._password = (number + 1) % len(passwords)
                if not left:
                    raise
        raise AssertionError("a user name has a password")

    def _context(self) -> ssl.SSLContext:
        if self._trust is None:
            self._trust = ssl.create_default_context(cafile=self._settings.ca_file or certifi.where())
        return self._trust

    async def _put_back(self, connection: _Connection, *, usable: bool, clean: bool) -> None:
        connection.uses += 1
        connection.clean = clean
        connection.used_at = time.monotonic()
        if usable and not connection.worn and len(self._idle) < self._settings.connections:
            self._idle.append(connection)
        else:
            await _quit(connection.client)


def open(settings: Settings) -> Smtp:  # noqa: A001 - what every transport's file calls it
    """The transport of one account; does not connect yet."""
    return Smtp(settings)


async def _by_token(client: SMTP, *, username: str, token: str) -> None:
    await client.auth_xoauth2(username, token)


async def _log_in(client: SMTP, *, username: str, password: str) -> None:
    """By the first method that the server takes: some name methods that they do not know (RFC 4954, section 6).

    Wrong credentials are not tried by the next: the server may close, and what it said would be lost.
    """
    refused: SMTPAuthenticationError | None = None
    for name in client.supported_auth_methods:
        method = getattr(client, f"auth_{name.replace('-', '')}")
        try:
            await method(username, password)
        except SMTPAuthenticationError as error:
            if error.code not in _OTHER_METHOD:
                raise
            refused = error
        else:
            return
    raise refused or SMTPException("the server offers no way to log in that we know")


def _before_the_message(error: Exception, account: AccountSettings, sender: Mailbox) -> tuple[Outcome, bool]:
    """What the end of the envelope means, and whether the connection is of use. Nothing was sent."""
    match error:
        case SMTPNotSupported():
            return Rejected(detail=str(error)), True
        case SMTPSenderRefused():
            return _sender_refused(error, account, sender), True
        case SMTPRecipientRefused(code=code) if code == CLOSING:
            return Retry(detail=f"the server is closing: {_said(error)}", account=True), False
        case SMTPRecipientRefused() if error.code < 500:
            return Retry(detail=f"not now: {_said(error)}", recipient=True), True
        case SMTPRecipientRefused():
            enhanced = _ENHANCED.match(error.message)
            refused = Rejected(
                detail=f"the server refuses the recipient: {_said(error)}",
                recipient=True,
                smtp_code=error.code,
                enhanced_code=enhanced[1] if enhanced else None,
            )
            return refused, True
        case _:
            return Retry(detail=f"the connection ended before the message: {_said(error)}"), False


def _sender_refused(error: SMTPSenderRefused, account: AccountSettings, sender: Mailbox) -> Outcome:
    detail = f"the server refuses our sender: {_said(error)}"
    if error.code in _NO_LOGIN:
        return Pause(detail=detail)
    if error.code >= 500:
        return account.refused(sender, detail)
    return Retry(detail=detail, account=error.code == CLOSING or account.is_own(sender))


def _after_the_message(error: Exception) -> tuple[Outcome, bool]:
    """Likewise, once the message is on its way. A refusal is definite; no reply, or an odd one, leaves all open."""
    if not isinstance(error, SMTPResponseException) or not 400 <= error.code < 600:
        return Unknown(detail=f"no clear reply to the message: {_said(error)}"), False
    if error.code == CLOSING:
        return Retry(detail=f"the server is closing: {_said(error)}", account=True), False
    detail = f"the server refuses the message: {_said(error)}"
    return (Rejected(detail=detail, smtp_code=error.code) if error.code >= 500 else Retry(detail=detail)), True


def _is_end(error: Exception) -> bool:
    """Whether the server has closed the connection, or is about to."""
    return isinstance(error, OSError | SMTPServerDisconnected) or getattr(error, "code", None) == CLOSING


async def _is_reset(client: SMTP) -> bool:
    """RSET ends a transaction that a refused recipient has left open."""
    try:
        await client.rset(timeout=10)
    except (SMTPException, OSError, TimeoutError):
        return False
    return True


async def _quit(client: SMTP) -> None:
    with contextlib.suppress(SMTPException, OSError, TimeoutError):
        await client.quit(timeout=2)
    client.close()


def _said(error: BaseException) -> str:
    text = f"{error.code} {error.message}" if isinstance(error, SMTPResponseException) else str(error)
    return _hidden(text or type(error).__name__)


def _hint(error: BaseException) -> str:
    """The library has no type of its own for a server without STARTTLS, which most that are for trying are."""
    return f" {WITHOUT_STARTTLS}" if "STARTTLS extension not supported" in str(error) else ""


def _hidden(text: str) -> str:
    """The server's words, on one line, without the addresses that they quote and what no text can hold."""
    return clean_text(_ADDRESS.sub("(an address)", " ".join(text.split()))[:500])
