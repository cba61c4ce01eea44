"""What the providers' HTTP APIs have in common: one call, and what its status means."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import quote
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from receiver.endpoint import seconds_until
from receiver.errors import Unavailable, Unreadable
from receiver.outbound import Answer, Forbidden, Outbound, Unreachable
from receiver.payload import decode, mapping
from receiver.sending.accounts import AccountSettings
from receiver.sending.message import Attachment, Mailbox, wire_address
from receiver.sending.transport import Outcome, Pause, Rejected, Retry, Sent, Unknown

TOTAL: Final = 30.0  # seconds for one call
KEPT: Final = 10  # connections that are kept for the next message
SEND_ID: Final = "send_id"  # the key of metadata under which our id comes back
LONGEST: Final = timedelta(hours=1)  # that a provider can let us wait
_NOT_NOW: Final = frozenset([408, 425, 500, 503])
_PERHAPS: Final = frozenset([502, 504])  # said by something between us and the provider, which may have the message
_OURS: Final = frozenset([401, 402, 403])

Read = Callable[[Answer], Sent]
Judge = Callable[[Answer], "Outcome | None"]


class Api:
    """The HTTP client of one account."""

    def __init__(self, url: str, settings: AccountSettings) -> None:
        self._outbound = outbound_to(url, private=settings.private)

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        read: Read,
        judge: Judge = lambda _: None,
        again: bool = False,
    ) -> Outcome:
        """What became of it. `judge`: the provider's own meaning of a refusal, where it says more.

        `again`: the provider knows a repetition by its key, so that what nobody knows can be asked again.
        """
        try:
            answer = await self._outbound.post(url, body, headers, max_bytes=65536)
        except (Unreachable, Forbidden) as error:
            return Retry(detail=str(error))
        except Unavailable as error:
            return Retry(detail=str(error)) if again else Unknown(detail=str(error))
        if 200 <= answer.status < 300:
            return read(answer)
        return judge(answer) or _meaning(answer, again=again)

    async def aclose(self) -> None:
        """Close connections."""
        await self._outbound.aclose()


def outbound_to(url: str, *, private: bool, total: float = TOTAL) -> Outbound:
    """The guarded client for one place. `private`: it may be in a private network, and without TLS."""
    parts = urlsplit(url)
    place = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    return Outbound(allow=[place] if private else [], plain_http=None, total=total, keep=KEPT)


def json_of(answer: Answer) -> Mapping[str, Any]:
    """The body, as Postgres can hold it; an empty object where it is no JSON object."""
    try:
        return mapping(decode(answer.body))
    except Unreadable:
        return {}


def _meaning(answer: Answer, *, again: bool) -> Outcome:
    detail = f"the provider answered {answer.status}"
    if answer.status == 429:
        return Retry(detail=detail, after=wait_of(answer.headers, datetime.now(UTC)), account=True)
    if answer.status in _NOT_NOW or (again and answer.status in _PERHAPS):
        return Retry(detail=detail, after=wait_of(answer.headers, datetime.now(UTC)))
    if answer.status in _PERHAPS:
        return Unknown(detail=detail)
    if answer.status in _OURS:
        return Pause(detail=f"{detail}: it does not accept our credentials, or does not let us send")
    if answer.status >= 500:
        return Retry(detail=detail)
    return Rejected(detail=detail)


def wait_of(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """How long the provider lets us wait at least: the longest that one of its headers says; None: none does.

    `Retry-After` (seconds or a date), `RateLimit-Reset` and `X-Sib-RateLimit-Reset` (seconds), `X-RateLimit-Reset`
    (seconds, or SendGrid's seconds since 1970).
    """
    waits = []
    for name in ("retry-after", "ratelimit-reset", "x-ratelimit-reset", "x-sib-ratelimit-reset"):
        text = headers.get(name, "").strip()
        try:
            seconds = float(text) if text.replace(".", "", 1).isdigit() else seconds_until(text, now)
        except (ValueError, TypeError, OverflowError):
            continue
        if seconds > 1_000_000_000:
            seconds -= now.timestamp()
        waits.append(min(max(timedelta(seconds=seconds), timedelta(0)), LONGEST))
    return max(waits, default=None)


def encode(value: Mapping[str, Any]) -> bytes:
    """As JSON, without what is None or empty: providers take an empty list for a mistake."""
    return msgspec.json.encode({name: one for name, one in value.items() if one not in (None, "", [], {}, ())})


def boxed(box: Mailbox) -> str:
    """`"Name" <address>`, as JSON and forms carry it: nothing of it is encoded but the domain."""
    address = wire_address(box.address)
    return f'"{quote(box.name)}" <{address}>' if box.name else address


def base64_of(attachment: Attachment) -> str:
    """The content of an attachment, as JSON has it."""
    return b64encode(attachment.content).decode()
