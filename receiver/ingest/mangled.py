"""Why a signature is wrong: whether it fits the body as it may have been before something on the way rewrote it.

Whoever sends a wrong signature makes us do this work, so it is bounded: small bodies, few guesses, seldom.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import msgspec

from receiver.contract import Delivery
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.ingest.credit import Credit
from receiver.sources import Source

MAX_BODY: Final = 64 * 1024  # bytes; larger ones are not tried
BURST: Final = 5  # requests of one source whose bodies are tried at once
EVERY: Final = 1.0  # seconds until one more is


class MangledBodies:
    """Tells a body that was changed on the way from a wrong key."""

    def __init__(self) -> None:
        self._credit = Credit(BURST, EVERY)

    async def why_wrong(self, source: Source, delivery: Delivery, refusal: Refused) -> tuple[Reason, str]:
        """The reason and its words: those of the refusal, unless the signature fits a body that we can guess."""
        if len(delivery.body) <= MAX_BODY and source.provider.covers == "body" and self._credit.take(source.name):
            how = await how_changed(source, delivery)
            if how is not None:
                return Reason.BODY_CHANGED, f"the key is right, but something on the way {how} (a proxy?)"
        return refusal.reason, refusal.detail


async def how_changed(source: Source, delivery: Delivery) -> str | None:
    """What something on the way did to the body, if the signature fits a body that we can guess."""
    tried = {delivery.body}
    for guess, how in _as_it_may_have_been(delivery.body):
        if guess in tried:
            continue
        tried.add(guess)
        try:
            await source.provider.authenticate(_with_body(delivery, guess))
        except (Refused, Unreadable, Unavailable):
            continue
        return how
    return None


def _as_it_may_have_been(body: bytes) -> Iterator[tuple[bytes, str]]:
    """At most seven guesses, each made when it is asked for."""
    stripped = body.strip()
    yield stripped, "added blanks around the body"
    yield stripped + b"\n", "cut the line end"
    yield stripped + b"\r\n", "cut the line end"
    try:
        value = json.loads(body)
        for separators in ((",", ":"), (", ", ": ")):
            for ascii_only in (True, False):
                text = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
                yield text.encode(errors="replace"), "decoded and encoded the JSON again"
    except (ValueError, RecursionError):  # no JSON, or nested so deep that nobody has encoded it again
        return


def _with_body(delivery: Delivery, body: bytes) -> Delivery:
    return msgspec.structs.replace(delivery, body=body)
