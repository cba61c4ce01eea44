"""What the configuration says about events and contacts: the bounce policy, and what is special about a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from receiver.contacts.configured import policy_of
from receiver.contacts.policy import Policy
from receiver.settings import Settings

_YES: Final = frozenset({"true", "t", "1", "yes", "y", "on"})  # as the environment writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`total_complaints`: sources where a complaint ends all mail, not marketing alone. `trusted`: those whose
    `subscribed` events are believed.
    """

    policy: Policy = field(default_factory=Policy)
    total_complaints: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()


def rules_of(settings: Settings) -> Rules:
    """The rules of this configuration. Sources are read as they are written, since a worker binds none of them."""
    return Rules(
        policy=policy_of(settings.policy),
        total_complaints=frozenset(_sources(settings, "complaint", frozenset({"all"}))),
        trusted=frozenset(_sources(settings, "trust_resubscribe", _YES)),
    )


def _sources(settings: Settings, key: str, values: frozenset[str]) -> Iterator[str]:
    return (name for name, table in settings.sources.items() if str(table.get(key, "")).lower() in values)
