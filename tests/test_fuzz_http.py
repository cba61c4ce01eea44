"""Any JSON value in any place of an authentic delivery, through the public door."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.contract import Occurrence
from receiver.event import EventType
from receiver.providers import providers
from tests.service import Played, Running, play, running

VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**40, -(10**18), 2**63, 1e308, -0.0, 1e-320])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["\x00", "a\x00b", "\ud800", "9999-99-99T99:99:99Z", "x" * 3000, "<a@b.test>", "@", "1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@contextmanager
def in_thread(dsn: str, *played: Played) -> Iterator[tuple[Running, asyncio.AbstractEventLoop]]:
    """The service in a thread of its own, for tests that hypothesis drives without an event loop."""
    loop = asyncio.new_event_loop()
    started: list[Running] = []
    ready = threading.Event()

    async def main() -> None:
        async with running(dsn, *played) as service:
            started.append(service)
            ready.set()
            await service.stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield started[0], loop
    finally:
        loop.call_soon_threadsafe(started[0].stop.set)
        thread.join()
        loop.close()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, the whole included."""
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


def with_value(item: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(item)
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return changed


@pytest.mark.parametrize("part", [sorted(providers())[start::4] for start in range(4)], ids=lambda part: part[0])
def test_any_value_in_any_place_is_never_a_5xx_and_never_costs_a_neighbour(
    part: list[str], database: str, tmp_path: Path
) -> None:
    """an authentic delivery with any JSON value in any place is answered 200, and kept as jsonb can read it."""
    played = [play(name, tmp_path) for name in part]
    with in_thread(database, *played) as (service, loop), httpx.Client(base_url=service.url, timeout=30) as client:
        for one in played:
            _fuzz(one, service, loop, client)
        readable = service.connection.fetch("SELECT raw::jsonb, metadata->>'x' FROM events")
        asyncio.run_coroutine_threadsafe(readable, loop).result(30)


def _fuzz(played: Played, service: Running, loop: asyncio.AbstractEventLoop, client: httpx.Client) -> None:
    simulation = played.source.provider.simulation

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        type_ = data.draw(st.sampled_from(sorted(simulation.types)))
        number = data.draw(st.integers(0, 10**9))
        good = _sample(played, type_, f"good{number}@one.test", number)
        whole = _sample(played, type_, "bad@one.test", number + 1)
        path = data.draw(st.sampled_from(list(places(whole))))
        bad = with_value(whole, path, data.draw(VALUES))
        try:
            posts = simulation.post([good, bad, good], played.keys, _now())
        except (UnicodeEncodeError, TypeError, AttributeError, KeyError, ValueError):
            return  # the signer itself cannot carry this value
        for post in posts:
            url = f"/webhooks/{played.source.name}" + (f"?{post.query}" if post.query else "")
            answer = client.post(url, content=post.body, headers=dict(post.headers))
            assert answer.status_code == 200, (played.source.name, answer.text)
        kept = _kept(service.connection, f"good{number}@one.test" if simulation.names_recipients else None)
        assert asyncio.run_coroutine_threadsafe(kept, loop).result(30) >= 1

    run()


def _sample(played: Played, type_: EventType, recipient: str, number: int) -> Any:
    return played.source.provider.simulation.sample(
        Occurrence(type=type_, recipient=recipient, at=_now(), run=f"fuzz{number}", number=number)
    )


def _now() -> datetime:
    return datetime.now(UTC)


async def _kept(connection: asyncpg.Connection, recipient: str | None) -> int:
    """Events of the recipient; of nobody, where the provider names none."""
    query = "SELECT count(*) FROM events WHERE recipient IS NOT DISTINCT FROM $1"
    found: int = await connection.fetchval(query, recipient)
    return found
