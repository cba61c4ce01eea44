"""The head of a request in the form that is kept with what was refused or quarantined."""

from __future__ import annotations

import json

from receiver.contract import Delivery


def request_head(delivery: Delivery) -> bytes:
    """Headers, query and the path's end as JSON; only ever stored encrypted, since each can hold secrets."""
    head = {"headers": dict(delivery.headers), "query": delivery.query, "path": delivery.path}
    return json.dumps(head).encode()
