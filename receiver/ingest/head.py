"""The head of a request in the form that is kept with what was refused or quarantined."""

from __future__ import annotations

import json
from datetime import datetime

from receiver.contract import Delivery


def request_head(delivery: Delivery) -> bytes:
    """Headers, query and the path's end as JSON; only ever stored encrypted, since each can hold secrets."""
    head = {"headers": dict(delivery.headers), "query": delivery.query, "path": delivery.path}
    return json.dumps(head).encode()


def delivery_of(head: bytes, body: bytes, *, source: str, at: datetime, client: str | None = None) -> Delivery:
    """The delivery whose head was kept by `request_head`."""
    kept = json.loads(head)
    return Delivery(
        source=source,
        headers=kept["headers"],
        body=body,
        query=kept["query"],
        path=kept.get("path", ""),
        client=client,
        at=at,
    )
