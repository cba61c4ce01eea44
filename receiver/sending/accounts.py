"""Accounts: through what mail goes out, `[accounts.<name>]`. What one may say is the business of its transport."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from receiver.classify.addresses import domain_of, normalize_address
from receiver.errors import ConfigError, Problem
from receiver.faults import did_you_mean, problems_of, setting_names
from receiver.raw_settings import resolve_files
from receiver.sending.content import Box, mailbox
from receiver.sending.message import Mailbox
from receiver.sending.transport import Pause, Rejected, Transport
from receiver.settings import Settings
from receiver.sources import NAME

TRANSPORTS: Final = ("mailgun", "postmark", "resend", "sendgrid", "ses", "smtp")
STREAMS: Final = ("marketing", "transactional")


class AccountSettings(BaseModel):
    """What every account has; transports add to it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    transport: str = Field(description=f"one of: {', '.join(TRANSPORTS)}", examples=["smtp"])
    sender: Box = Field(alias="from", description="who the mail is from", examples=["Shop <hello@shop.example>"])
    streams: list[Literal["marketing", "transactional"]] = Field(
        ["marketing", "transactional"], description="the mail that goes by this account unless a send names another"
    )
    per_second: float | None = Field(None, gt=0, le=10_000, description="most messages in a second", examples=[10])
    per_hour: int | None = Field(None, ge=1, description="most messages in an hour", examples=[5000])
    per_day: int | None = Field(None, ge=1, description="most messages in a day", examples=[50_000])
    private: bool = Field(default=False, description="the server may be in a private network", examples=[True])

    @property
    def mailbox(self) -> Mailbox:
        """Who the mail is from."""
        return mailbox(self.sender)

    def is_own(self, sender: Mailbox) -> bool:
        """Whether it is the account's own sender, and not one that a template or a program has given the message."""
        return normalize_address(sender.address) == normalize_address(self.mailbox.address)

    def refused(self, sender: Mailbox, detail: str) -> Pause | Rejected:
        """What it means that a sender is refused: of the account's own, all its mail is; of another, this message."""
        return Pause(detail=detail) if self.is_own(sender) else Rejected(detail=detail)

    @property
    def is_limited(self) -> bool:
        """Whether messages have to wait for their turn."""
        return any(most is not None for most in (self.per_second, self.per_hour, self.per_day))

    @property
    def domain(self) -> str:
        """The domain of the sender."""
        return domain_of(self.mailbox.address)


class TransportModule(Protocol):
    """What a file in `receiver/sending/` offers."""

    Settings: type[AccountSettings]

    def open(self, settings: Any) -> Transport:
        """The transport of one account; does not connect yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What `[accounts.<name>]` became."""

    name: str
    settings: AccountSettings
    transport: Transport


def bind_accounts(settings: Settings) -> dict[str, Account]:
    """Every account by name. Raises ConfigError with every problem of all of them."""
    accounts, problems = find_accounts(settings)
    if problems:
        raise ConfigError(problems)
    return accounts


def find_accounts(settings: Settings) -> tuple[dict[str, Account], list[Problem]]:
    """The accounts that can be used, and what is wrong with the others."""
    bound, problems = dict[str, Account](), list[Problem]()
    for name in settings.accounts:
        found = _bind(name, settings)
        if isinstance(found, Account):
            bound[name] = found
        else:
            problems += found
    return bound, [*problems, *_shared_streams(bound)]


def default_accounts(accounts: Mapping[str, Account]) -> tuple[str | None, str | None]:
    """The names of the accounts for marketing and transactional mail; None: there is none."""
    marketing, transactional = (
        next((name for name, one in accounts.items() if stream in one.settings.streams), None) for stream in STREAMS
    )
    return marketing, transactional


def _bind(name: str, settings: Settings) -> Account | list[Problem]:
    key, table = f"accounts.{name}", settings.accounts[name]
    word = table.get("transport")
    module = _module(word) if word in TRANSPORTS else None
    model = module.Settings if module else _any_transport()
    wrong = [*_wrong_names(key, name, word)]
    values, unreadable = resolve_files(table, setting_names(model), f"{key}.")
    try:
        bound = model.model_validate(values if module else {**values, "transport": TRANSPORTS[0]})
    except ValidationError as error:
        faults = [problem for _, problem in problems_of(error, model, f"{key}.", settings.origins)]
        return [*wrong, *unreadable, *faults]
    if wrong or unreadable or module is None:
        return [*wrong, *unreadable]
    return Account(name=name, settings=bound, transport=module.open(bound))


def _wrong_names(key: str, name: str, transport: object) -> Iterator[Problem]:
    if not NAME.fullmatch(name):
        yield Problem(key, "is not a name", "Use a to z, 0 to 9, - and _, at most 63 characters")
    if transport not in TRANSPORTS:
        wrong = "is missing" if transport is None else f"is not a transport{did_you_mean(str(transport), TRANSPORTS)}"
        yield Problem(f"{key}.transport", wrong, f"One of: {', '.join(TRANSPORTS)}")


def _module(transport: object) -> TransportModule:
    module: Any = import_module(f"receiver.sending.{transport}")
    found: TransportModule = module
    return found


def _any_transport() -> type[AccountSettings]:
    """What shows what else is wrong with an account whose transport is: it takes what any of them knows."""
    known = {name for transport in TRANSPORTS for name in setting_names(_module(transport).Settings)}
    own: dict[str, Any] = dict.fromkeys(known - set(setting_names(AccountSettings)), (Any, None))
    return create_model("AnyTransport", __base__=AccountSettings, **own)


def _shared_streams(accounts: Mapping[str, Account]) -> Sequence[Problem]:
    """Which account is meant must not depend on their order."""
    problems = []
    for stream in STREAMS:
        names = [name for name, one in accounts.items() if stream in one.settings.streams]
        for name in names[1:]:
            right = f'Take "{stream}" out of the streams of one of them; a send can still name the account'
            problems.append(Problem(f"accounts.{name}.streams", f"has {stream}, as accounts.{names[0]} has", right))
    return problems
