"""What bounces mean for an address, by class and kind of mail: the table `[policy]`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from receiver.durations import Duration, read_duration

WORDS: Final = ("never", "at_once")
EXAMPLE: Final = {"messages": 5, "over": "7d", "expires": ["30d", "90d"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """A bounce that suppresses when it repeats, as written; None: as it is without that.

    `messages` in a row, the last `over` after the first; suppressed for each of `expires` in turn, then for good.
    """

    messages: int | None = None
    over: timedelta | None = None
    expires: tuple[timedelta, ...] | None = None
    unless_provider_agrees: bool | None = None


_KEYS: Final = tuple(one.name for one in fields(Repeats))


def _rule(value: object) -> object:
    """A word, or a table (in the environment: as JSON)."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("is not JSON") from None
    if isinstance(value, str):
        word = value.strip().lower().replace(" ", "_")
        if word not in WORDS:
            raise ValueError("is neither never nor at_once, nor a table")
        return word
    if isinstance(value, dict):
        return _repeats(value)
    if value is None or isinstance(value, Repeats):
        return value
    raise ValueError("is neither never nor at_once, nor a table")


def _repeats(table: dict[str, Any]) -> Repeats:
    if unknown := sorted(set(table) - set(_KEYS)):
        raise ValueError(f"has the key {unknown[0]!r}, and may have {', '.join(_KEYS)}")
    messages = table.get("messages")
    if messages is not None and (
        not isinstance(messages, int) or isinstance(messages, bool) or not 2 <= messages <= 50
    ):
        raise ValueError("has messages that are no number from 2 to 50 (for one, write at_once)")
    agrees = table.get("unless_provider_agrees")
    if agrees is not None and not isinstance(agrees, bool):
        raise ValueError("has unless_provider_agrees that is neither true nor false")
    over = _length(table["over"], "over") if "over" in table else None
    expires = _lengths(table["expires"]) if "expires" in table else None
    return Repeats(messages=messages, over=over, expires=expires, unless_provider_agrees=agrees)


def _lengths(value: object) -> tuple[timedelta, ...]:
    if not isinstance(value, list):
        why = 'has expires that is no list, such as ["30d", "90d"]; an empty one: for good'
        raise ValueError(why)  # noqa: TRY004 - pydantic takes ValueError alone
    return tuple(_length(one, "expires") for one in value)


def _length(value: object, key: str) -> timedelta:
    try:
        return read_duration(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"has {key} that is not a length of time such as 7d") from None


Rule: TypeAlias = Annotated[Literal["never", "at_once"] | Repeats | None, BeforeValidator(_rule)]


def _means(what: str) -> Any:
    return Field(None, description=f"{what}: `never`, `at_once`, or when it repeats", examples=[EXAMPLE])


class ClassSettings(BaseModel):
    """A rule for each class of bounce; None: as without it. `hard` to `undetermined` are for what has no class."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    invalid_recipient: Rule = _means("there is no such mailbox")
    bad_domain: Rule = _means("the domain takes no mail, or does not exist")
    inactive_mailbox: Rule = _means("the mailbox is switched off")
    mailbox_full: Rule = _means("the mailbox is full")
    expired: Rule = _means("the email provider gave up after trying for days")
    transient: Rule = _means("it failed for the time being")
    too_large: Rule = _means("the message is too large")
    dns_failure: Rule = _means("the domain could not be looked up")
    network: Rule = _means("the server could not be reached")
    greylisted: Rule = _means("a first attempt was put off")
    auto_reply: Rule = _means("a program answered")
    challenge: Rule = _means("the sender was asked to prove that a person sends")
    rate_limited: Rule = _means("too much was sent at once")
    spam_block: Rule = _means("the sender is taken for a spammer")
    spam_content: Rule = _means("the message is taken for spam")
    reputation: Rule = _means("the sender has a bad name")
    policy: Rule = _means("a rule of the mailbox provider's forbids it")
    auth_failed: Rule = _means("SPF, DKIM or DMARC failed")
    relay_denied: Rule = _means("the server does not take mail for the domain")
    attachment: Rule = _means("an attachment is not allowed")
    sender_invalid: Rule = _means("the sender's address is refused")
    hard: Rule = _means("no class is known, and the email provider calls it hard")
    soft: Rule = _means("no class is known, and the email provider calls it soft")
    block: Rule = _means("no class is known, and the email provider calls it a block")
    undetermined: Rule = _means("nothing is known")

    @property
    def rules(self) -> dict[str, Literal["never", "at_once"] | Repeats]:
        """What is set, by class."""
        found = {name: getattr(self, name) for name in ClassSettings.model_fields}
        return {name: rule for name, rule in found.items() if rule is not None}


class PolicySettings(ClassSettings):
    """`[policy]`, and `[policy.streams.<stream>]` for what is otherwise in one kind of mail."""

    release_after: Duration = Field(
        timedelta(days=3),
        description="how long suppressions that rest on a mailbox provider's bad day alone count once it is over",
        examples=["3d"],
    )
    streams: dict[str, ClassSettings] = Field(
        {}, description="other rules for a kind of mail, one table `[policy.streams.<stream>]` each"
    )
