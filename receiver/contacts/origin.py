"""Who changes contacts, as `consent_log` has it."""

from __future__ import annotations

from typing import NamedTuple


class Origin(NamedTuple):
    """`source`: such as `handler:follow_up` or `api:shop`. `method`: `handler`, `api`, `cli`, ..."""

    source: str = "handler"
    method: str = "handler"
