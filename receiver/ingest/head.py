"""The head of a request in the form that is kept with what was refused or quarantined."""

from __future__ import annotations

import json

from receiver.contract import Delivery


def request_head(delivery: Delivery) -> bytes:
    """Headers and query as JSON; only ever stored encrypted, since both can hold secrets."""
    return json.dumps({"headers": dict(delivery.headers), "query": delivery.query}).encode()
