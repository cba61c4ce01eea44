"""Why a signature is wrong: whether it fits the body as it may have been before something on the way rewrote it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from receiver.contract import Delivery
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.sources import Source


class MangledBodies:
    """Tells a body that was changed on the way from a wrong key."""

    async def why_wrong(self, source: Source, delivery: Delivery, refusal: Refused) -> tuple[Reason, str]:
        """The reason and its words: those of the refusal, unless the signature fits a body that we can guess."""
        for changed, how in _as_it_may_have_been(delivery.body):
            if changed == delivery.body:
                continue
            try:
                await source.provider.authenticate(_with_body(delivery, changed))
            except (Refused, Unreadable, Unavailable):
                continue
            return Reason.BODY_CHANGED, f"the key is right, but something on the way {how} (a proxy?)"
        return refusal.reason, refusal.detail


def _as_it_may_have_been(body: bytes) -> Sequence[tuple[bytes, str]]:
    stripped = body.strip()
    variants = [
        (stripped, "added blanks around the body"),
        (stripped + b"\n", "cut the line end"),
        (stripped + b"\r\n", "cut the line end"),
    ]
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return variants
    again = "decoded and encoded the JSON again"
    for separators in ((",", ":"), (", ", ": ")):
        for ascii_only in (True, False):
            text = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
            variants.append((text.encode(errors="replace"), again))
    return variants


def _with_body(delivery: Delivery, body: bytes) -> Delivery:
    return Delivery(
        source=delivery.source,
        headers=delivery.headers,
        body=body,
        query=delivery.query,
        client=delivery.client,
        at=delivery.at,
    )
