"""Ids and shards are for ever: these vectors may never change."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from receiver.event import SHARDS, event_id, shard_of

MOMENT = datetime(2026, 11, 22, 10, 30, 0, 123000, tzinfo=UTC)


def test_golden_ids() -> None:
    """the id of an event is the same for ever, on every machine."""
    vectors: list[tuple[tuple[str, list[str | None], datetime | None], str]] = [
        (("postmark", ["Bounce", "abc", "a@b.test"], MOMENT), "01a202ce-3cbb-81c1-945f-b7ab2874b934"),
        (("postmark", ["Bounce", "abc", "a@b.test"], None), "00000000-0000-81c1-945f-b7ab2874b934"),
        (("postmark", ["Bounce", None, "ä@b.test", "1"], MOMENT), "01a202ce-3cbb-8ebe-89c1-8375c9bfef55"),
    ]
    for arguments, expected in vectors:
        assert str(UUID(bytes=event_id(*arguments))) == expected


def test_golden_shards() -> None:
    """the shard of a recipient is the same for ever; without one the message id, then the id decides."""
    assert [shard_of("a@b.test", "m", b"x"), shard_of(None, "m", b"x"), shard_of(None, None, b"x" * 16)] == [17, 40, 15]


@given(st.text(), st.lists(st.none() | st.text(), max_size=5), st.none() | st.datetimes(timezones=st.just(UTC)))
def test_an_id_is_a_version_8_uuid_that_begins_with_the_time(
    source: str, identity: list[str | None], moment: datetime | None
) -> None:
    """an id is a UUID of version 8 whose first 48 bits are the event's milliseconds, zero without a time."""
    made = UUID(bytes=event_id(source, identity, moment))
    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    millis = 0 if moment is None else min(max(int(moment.timestamp() * 1000), 0), (1 << 48) - 1)
    assert made.int >> 80 == millis
    assert made == UUID(bytes=event_id(source, list(identity), moment))


@given(st.lists(st.none() | st.text(), max_size=4), st.lists(st.none() | st.text(), max_size=4))
def test_different_identities_give_different_ids(left: list[str | None], right: list[str | None]) -> None:
    """None, the empty text and text with separators inside are told apart."""
    assert (left == right) == (event_id("s", left, MOMENT) == event_id("s", right, MOMENT))


@given(st.none() | st.text(min_size=1), st.none() | st.text(min_size=1), st.binary(min_size=16, max_size=16))
def test_a_shard_is_within_bounds(recipient: str | None, message_id: str | None, id_: bytes) -> None:
    """every event has a shard between 0 and 63, and events of one recipient share it."""
    assert 0 <= shard_of(recipient, message_id, id_) < SHARDS
    assert shard_of("a@b.test", message_id, id_) == shard_of("a@b.test", None, bytes(16))
