"""How a transport is asked to send, and what it may answer: the same few outcomes for every provider and for SMTP."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeAlias

from receiver.sending.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The transport has taken the message. `provider_message_id`: what the provider's webhooks will call it."""

    provider_message_id: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Not now. `after`: at least that long, as the provider asks.

    `account`: it concerns all mail of the account. `recipient`: it concerns this recipient alone (greylisting).
    """

    detail: str
    after: timedelta | None = None
    account: bool = False
    recipient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Never: the message or its recipient is refused. The rest is what the bounce classifier works with.

    `recipient`: it was a reply about the recipient (SMTP: to RCPT), and not about us or the message.
    """

    detail: str
    recipient: bool = False
    smtp_code: int | None = None
    enhanced_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The account cannot send: credentials, a closed account, an unverified sender. People have to set it right."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Nobody can say whether it was taken: the connection ended after the message had gone out."""

    detail: str


Outcome: TypeAlias = Sent | Retry | Rejected | Pause | Unknown


class Transport(Protocol):
    """Sends messages through one account. Never raises for what a peer says or does; `detail` names no address."""

    async def send(self, message: Message) -> Outcome:
        """Hand over one message; what became of it."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
