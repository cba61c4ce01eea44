"""Senders that need no code: one file each beside this one, with a mapping and all that is to be said of it.

The table `mapping` has the keys that `[sources.<name>]` has for the provider `generic`, and `signature` too.
`generic.toml` is the example of that provider itself: a made-up sender that its simulator plays.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from receiver.contract import Occurrence, Reply, never
from receiver.event import EventType
from receiver.mapping import MappingSettings
from receiver.signature_scheme import SignatureSettings

DAY_AND_MORE: Final = 90_000.0  # seconds: what a retry may be late where nothing is documented
_PLACE: Final = re.compile(r"\{(recipient|sender|id|iso|seconds|milliseconds|number)\}")
_END: Final = ".toml"
_NUMBERS: Final = frozenset({"{seconds}", "{milliseconds}", "{number}"})


class RecipeReply(BaseModel):
    """As `Reply`. `repeated`: codes, also as 4xx, after which the sender tries again; empty: it never does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retries: str
    repeated: list[str]
    refused: int = 503
    again: int = 503
    slow: int = 503
    too_large: int = 503
    bad_encoding: int = 503
    timeout: float = 10.0
    max_body: int = 1 << 20

    def reply(self) -> Reply:
        codes = frozenset(self.repeated)

        def repeated(code: int) -> bool:
            return str(code) in codes or f"{code // 100}xx" in codes

        return Reply(repeated=repeated if codes else never, **self.model_dump(exclude={"repeated"}))


class Recipe(BaseModel):
    """One file. `right`: where its secret is found, for messages. `demo`: the credential that the simulator makes up.

    `batch`: events in one request; more than one are posted as a list. `window`: seconds a signed time may be old.
    `samples`: by event type, the sender's own item as JSON with {recipient}, {id}, {iso}, ... in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    about: str
    setup: str
    right: str
    demo: Literal["password", "bearer_token", "header_value", "url_secret", "signing_secret"]
    batch: int = 1
    window: float = DAY_AND_MORE
    mapping: MappingSettings
    signature: SignatureSettings = SignatureSettings()
    reply: RecipeReply
    samples: dict[EventType, str] = Field(min_length=1)

    def sample(self, occurrence: Occurrence) -> Any:
        """The sender's item for an occurrence."""
        at = occurrence.at
        values = {
            "recipient": occurrence.recipient,
            "sender": occurrence.sender,
            "id": f"{occurrence.run}-{occurrence.number}",
            "iso": at.isoformat(),
            "seconds": str(int(at.timestamp())),
            "milliseconds": str(int(at.timestamp() * 1000)),
            "number": str(occurrence.number),
        }
        return _filled(json.loads(self.samples[occurrence.type]), values)


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """The value with its places filled in; a text that is one place for a number becomes a number."""
    if isinstance(value, dict):
        return {key: _filled(member, values) for key, member in value.items()}
    if isinstance(value, list):
        return [_filled(member, values) for member in value]
    if not isinstance(value, str):
        return value
    filled = _PLACE.sub(lambda found: values[found[1]], value)
    return int(filled) if value in _NUMBERS else filled


def recipe_names() -> list[str]:
    """The names of all recipes; a file's name is the provider's."""
    return sorted(file.name.removesuffix(_END) for file in files(__name__).iterdir() if file.name.endswith(_END))


@cache
def read_recipe(name: str) -> Recipe:
    """The recipe of that name, which is there."""
    return Recipe(name=name, **tomllib.loads((files(__name__) / f"{name}{_END}").read_text("utf-8")))
