"""A URL of one's own that takes events: for handlers that hand them on to programs that are not in Python."""

from __future__ import annotations

import hashlib
import time
from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Final, Self

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from receiver.cloudevents import BATCH_CONTENT_TYPE, encode_batch
from receiver.event import Event
from receiver.outbound import Answer, Outbound
from receiver.signers.standard_webhooks import signed_headers

TOTAL: Final = 20.0  # seconds for one call, less than a handler has
BUSY: Final = frozenset({429, 503})
REST: Final = 30.0  # seconds, where one of these does not say how long
LONGEST_REST: Final = 86_400.0  # seconds: what a Retry-After can ask for at most
_SHORTEST_KEY, _LONGEST_KEY = 24, 64  # bytes, as Standard Webhooks has it


def _check_secret(value: SecretStr) -> SecretStr:
    prefix, _, text = value.get_secret_value().partition("_")
    try:
        key = b64decode(text, validate=True)
    except ValueError:
        key = b""
    if prefix != "whsec" or not _SHORTEST_KEY <= len(key) <= _LONGEST_KEY:
        raise ValueError(f"is not whsec_ with {_SHORTEST_KEY} to {_LONGEST_KEY} bytes in base64 behind it")
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, (str, SecretStr)) else value


class Endpoint(BaseModel):
    """Where events are posted to, as (part of) a handler's settings.

    `url`: https, and a public address. `secret`: `whsec_...`, or several, with each of which every request is signed.
    `private`: the URL's host may be a private address, and plain http. `raw`: the provider's own objects go along.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: str
    secret: Annotated[
        list[Annotated[SecretStr, AfterValidator(_check_secret)]], BeforeValidator(_listed), Field(min_length=1)
    ]
    private: bool = False
    raw: bool = False
    _place: tuple[str, int] = PrivateAttr()
    _outbound: Outbound | None = PrivateAttr(None)
    _rest_until: float = PrivateAttr(0.0)

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        try:
            url = httpx.URL(self.url)
        except (httpx.InvalidURL, ValueError):
            url = httpx.URL("")
        if url.scheme not in ("https", "http") or not url.host or url.userinfo:
            raise ValueError("the url must be https://..., without a user's name in it")
        if url.scheme == "http" and not self.private:
            raise ValueError("the url is plain http: use https, or say private = true for a host of your own network")
        self._place = (url.host, url.port or (443 if url.scheme == "https" else 80))
        return self

    async def post(self, events: Sequence[Event]) -> Answer:
        """Post the events as one batch of CloudEvents, signed as Standard Webhooks; the answer, whatever its status.

        The same events have the same `webhook-id`, so that a repetition shows. Raises receiver.errors.Unavailable
        where there is no answer, and its subclass Forbidden where the URL leads to an address that must not be called.
        """
        body = encode_batch(events, raw=self.raw)
        keys = [one.get_secret_value() for one in self.secret]
        headers = signed_headers(keys, batch_id(events), int(time.time()), body)
        answer = await self._client().post(self.url, body, {"content-type": BATCH_CONTENT_TYPE, **headers})
        self._rest_until = time.monotonic() + rest_after(answer)
        return answer

    @property
    def rest(self) -> float:
        """For how many more seconds the URL has asked to be left alone: by a Retry-After, or by status 429 or 503."""
        return max(self._rest_until - time.monotonic(), 0.0)

    def _client(self) -> Outbound:
        """Made when first needed: it loads certificates."""
        if self._outbound is None:
            allow = [self._place] if self.private else []
            self._outbound = Outbound(allow=allow, plain_http=None, total=TOTAL)
        return self._outbound


def batch_id(events: Sequence[Event]) -> str:
    """The id of a request: made from the events' ids."""
    return "msg_" + hashlib.sha256(b"".join(event.id.bytes for event in events)).hexdigest()[:32]


def rest_after(answer: Answer, now: datetime | None = None) -> float:
    """Seconds to wait before the next request; 0: none are asked for."""
    usual = REST if answer.status in BUSY else 0.0
    text = answer.headers.get("retry-after", "").strip()
    if answer.status < 400 or not text:
        return usual
    try:
        seconds = float(text) if text.isdigit() else seconds_until(text, now or datetime.now(UTC))
    except (ValueError, TypeError, OverflowError):  # neither a number nor a date
        return usual
    return min(max(seconds, 0.0), LONGEST_REST)


def seconds_until(text: str, now: datetime) -> float:
    """Of the date in a header such as Retry-After. Raises ValueError, TypeError, OverflowError for what is none."""
    moment = parsedate_to_datetime(text)
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp() - now.timestamp()
