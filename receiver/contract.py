"""What a provider file must offer, and the values that pass between it and the service.

A provider is one file in `receiver/providers/`, read in this order: the documents it rests on, its settings, the table
of words, `authenticate`, `parse`, `read`, and `PROVIDER` as the last line (the type check and the discovery hook).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from receiver.durations import Duration
from receiver.errors import Problem
from receiver.event import EventType, Reading
from receiver.networks import Networks

Covers = Literal["body", "fields", "token", "nothing"]
# What a provider's file rests on. `verified`: the provider's own signature vector, sample or source code, which a test
# repeats. `documents`: what it or its clients' authors wrote, never seen live. `recipe`: a mapping for `generic`.
Basis = Literal["verified", "documents", "recipe"]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, (str, SecretStr)) else value


# Several may be live at once, while one replaces another; a single one may be written without the list.
Secrets = Annotated[list[SecretStr], BeforeValidator(_one_or_many)]
PublicKeys = Annotated[list[str], BeforeValidator(_one_or_many)]


def _table(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value  # as the environment writes a whole table
    except ValueError as error:
        raise ValueError("is not a table") from error


Types = Annotated[dict[str, EventType], BeforeValidator(_table)]
Names = Annotated[dict[str, str], BeforeValidator(_table)]


class SourceSettings(BaseModel):
    """What every `[sources.<name>]` may say; each provider's `Settings` adds its secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    provider: str
    stream: str | None = Field(None, description="kind of mail: `marketing` or `transactional`")
    brand: str | None = Field(None, description="the brand an unsubscribe from this source concerns")
    default_topic: str | None = Field(None, description="the topic of events that name none")
    lists: Names = Field(
        {}, description="our topic for what the provider calls a list or group, such as { 12345 = 'news' }"
    )
    complaint: Literal["marketing", "all"] = Field(
        "marketing", description="what a complaint ends: the brand's `marketing`, or `all` mail to the address"
    )
    trust_resubscribe: bool = Field(
        False,
        description="whether a `subscribed` event of this source subscribes its recipient to its topic, at once",
    )
    public_url: str | None = Field(None, description="this source's URL as the provider calls it, if it signs the URL")
    tolerance: float | None = Field(
        None, gt=0, description="seconds a signed time may be old; default: the provider's own"
    )
    max_body: int | None = Field(None, gt=0, description="bytes a request body may have; default: the provider's own")
    expect_every: Duration | None = Field(
        None, description="raise an alert when no event has come for so long, such as `15m`; default: never"
    )
    allow_from: Networks = Field(
        [], description="addresses and networks that requests may come from, beside the proof; default: any"
    )
    types: Types = Field(
        {}, description="what words of the provider mean, over its own table, such as { new_word = 'deferred' }"
    )


def _now() -> datetime:
    return datetime.now(UTC)


class Delivery(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One POST exactly as received. `headers` have lower-case names; a repeated header is joined with ", ".

    `query`: what follows `?` in the URL, as it came. `path`: what follows the source's name and a slash.
    """

    source: str
    headers: Mapping[str, str]
    body: bytes
    query: str = ""
    path: str = ""
    client: str | None = None
    at: datetime = msgspec.field(default_factory=_now)

    def __repr__(self) -> str:
        return f"Delivery(source={self.source!r}, client={self.client!r}, at={self.at!r})"  # the rest may hold secrets


class Answer(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """A finished HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class Authentic(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What `authenticate` hands on: the decoded payload, or the answer to a handshake that needs no storing.

    `proof`: the signed text, where it is not the whole body. Whoever gets hold of such a signature can put it on
    endless different bodies, so what is kept for a person to look at is kept once for each proof, not for each body.
    """

    payload: Any = None
    answer: Answer | None = None
    proof: bytes | None = None

    def __repr__(self) -> str:
        return f"Authentic(answer={self.answer!r})"


class Item(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One unit of a delivery that `read` turns into events.

    `value`: decoded JSON. `text`: the same as JSON text, which becomes `events.raw`.
    `altered`: the text differs from what was received, because Postgres could not have held it.
    `event_id`: an id from outside the item (a header, an envelope) that is known to survive the provider's retries.
    """

    value: Any
    text: str
    altered: bool = False
    event_id: str | None = None


class UnreadableItem(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A part of a delivery that is no item: quarantined alone while its neighbours are stored."""

    body: bytes
    why: str


def all_but_2xx(code: int) -> bool:
    """Whether a provider that repeats until it gets a success does so after this code."""
    return not 200 <= code < 300


def never(code: int) -> bool:  # noqa: ARG001 - stands for any code
    """For a provider that posts each event once, whatever it is answered."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The status codes this provider understands, and how long it waits for one.

    `stored`: kept (also duplicates and quarantined). `refused`: the sender is not proven.
    `again`: overloaded or a part is away.
    `slow`: the body did not arrive in time. `too_large`: it is over the limit. `bad_encoding`: its content encoding
    is none that we undo, or is broken.
    After all but `stored` and `refused` the provider must try again: a next attempt may be whole, and a limit, a proxy
    or a release of ours may have been put right by then. A provider that drops the event after 4xx gets `again` there.
    `final_refusal`: `refused` ends it, because a wrong signature cannot be a mistake of ours (no secret is shared).
    `repeated`: whether the provider posts again after a code. `retries`: the same for people, and for how long; where
    nothing is documented it says so, and `repeated` is what its kind of sender does.
    `timeout`: seconds until the provider gives up on an answer. `max_body`: bytes.
    """

    repeated: Callable[[int], bool] = all_but_2xx
    retries: str

    stored: int = 200
    refused: int = 401
    again: int = 503
    slow: int = 408
    too_large: int = 413
    bad_encoding: int = 400
    final_refusal: bool = False
    timeout: float = 10.0
    max_body: int = 1 << 20


class Fetch(Protocol):
    """The guarded way out for HTTP GET: no private addresses, no redirects, size capped. Raises `Unavailable`."""

    async def __call__(self, url: str, *, max_bytes: int = 65536) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a provider may use besides its settings."""

    fetch: Fetch
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What the simulator wants a provider to say: one event of `type` for `recipient` at `at`.

    `number` differs for every occurrence of a run; ids are made from it and `run` so that they are distinct.
    """

    type: EventType
    recipient: str
    at: datetime
    run: str
    number: int = 0
    sender: str = "news@example.net"


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One HTTP request of the simulator."""

    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How to play the provider: fresh credentials, samples in its own format, its signature, its set-up.

    `demo(directory)`: freshly made (settings for the receiver, keys for the signer); may write files into `directory`.
    `keys(settings)`: the signer's keys, from a configured source; `None` where the receiver only has the public half.
    `sample(occurrence)`: the provider's own item (JSON-able), with every field it documents for that event.
    `post(items, keys, now)`: the requests that carry the items, batched and signed as the provider does it.
    `setup`: what to do in the provider's console, `{url}` stands for the webhook URL.
    `volatile`: fields of a sample that the provider gives other values when it repeats an event.
    `unsignable`: for people, when `keys` is `None`: how to add a second key that the simulator has.
    `names_recipients`: whether the provider's events say whose address it was.
    """

    types: Sequence[EventType]
    demo: Callable[[Path], tuple[dict[str, Any], dict[str, str]]]
    keys: Callable[[Any], Mapping[str, str] | None]
    sample: Callable[[Occurrence], Any]
    post: Callable[[Sequence[Any], Mapping[str, str], datetime], Sequence[Post]]
    setup: str
    unsignable: str = ""
    volatile: Sequence[str] = ()
    names_recipients: bool = True


class Provider(ABC):
    """The interface of a provider file.

    `words`: what the provider's own words become; where a word alone does not tell, what it mostly becomes.
    A provider whose `authenticate` may wait for something from outside says so with `waits: ClassVar[bool] = True`:
    its deliveries then wait alone. One that reports by GET, in the URL's query, says so with
    `by_get: ClassVar[bool] = True`: a GET with a query is then a delivery with an empty body.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    basis: ClassVar[Basis]
    covers: ClassVar[Covers]
    words: ClassVar[Mapping[str, EventType]]
    reply: ClassVar[Reply]
    simulation: ClassVar[Simulation]
    Settings: ClassVar[type[SourceSettings]]

    @abstractmethod
    def __init__(self, settings: Any, world: World) -> None: ...

    @staticmethod
    @abstractmethod
    def problems(settings: Any, key: str) -> Sequence[Problem]:
        """What is wrong with settings that pydantic accepts: no proof of the sender, short or published secrets."""
        ...

    @abstractmethod
    def authenticate(self, delivery: Delivery) -> Awaitable[Authentic]:
        """Prove the sender over the raw bytes. Raises Refused, Unreadable (authentic, not decodable), Unavailable."""
        ...

    @abstractmethod
    def parse(self, payload: Any) -> Iterable[Item | UnreadableItem]:
        """Split an authentic payload into items. Raises Unreadable if it has not even the outer shape."""
        ...

    @abstractmethod
    def read(self, item: Item) -> Sequence[Reading]:
        """The events of one item, one for each recipient. Raises Unreadable; must never raise anything else."""
        ...


def secret_bytes(secrets: Sequence[SecretStr]) -> list[bytes]:
    """The secrets' texts as keys."""
    return [secret.get_secret_value().encode() for secret in secrets]


FEWEST_LETTERS: Final = 5  # different ones in a secret; 16 random hexadecimal digits have fewer once in two million


def secret_problems(
    secrets: Sequence[SecretStr], key: str, right: str, *, shortest: int = 16, published: Sequence[str] = ()
) -> list[Problem]:
    """Problems of a list of secrets: none at all, empty, shorter than `shortest`, monotonous, or a published sample."""
    if not secrets:
        return [Problem(key, "is missing, so nothing would prove the sender", right)]
    found = []
    for number, secret in enumerate(secrets, 1):
        where = key if len(secrets) == 1 else f"{key} (number {number})"
        value = secret.get_secret_value()
        if not value.strip():
            found.append(Problem(where, "is empty", right))
        elif value in published:
            found.append(Problem(where, "is a sample from published documents, which everybody knows", right))
        elif len(value) < shortest:
            found.append(Problem(where, f"has only {len(value)} characters", right))
        elif len(set(value)) < FEWEST_LETTERS:
            found.append(Problem(where, "repeats the same few characters, as only an example does", right))
    return found
