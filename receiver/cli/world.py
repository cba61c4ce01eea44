"""What commands that receive nothing hand to providers: a world in which nothing is fetched."""

from __future__ import annotations

from receiver.contract import World
from receiver.errors import Unavailable


def local_world() -> World:
    """For checking settings."""
    return World(fetch=_no_fetch)


async def _no_fetch(url: str, *, max_bytes: int = 65536) -> bytes:  # noqa: ARG001 - the interface's
    raise Unavailable("this command fetches nothing")
