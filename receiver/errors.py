"""Every error this package raises on purpose.

ReceiverError
  Refused        a request that did not prove its sender (or is too old): answered with the provider's refusal code
  Unreadable     authentic input that cannot be turned into an event: kept in quarantine
  Unavailable    what is needed is away for now (database, certificate): the provider is asked to try again
  SchemaError    the database's schema and this release do not fit
  EmbeddedError  the embedded Postgres could not be started

ConfigError      stands outside: a wrong configuration stops the start and no handler of errors may swallow it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a request was refused; the value is stored in `refused.reason`."""

    MISSING_HEADER = "missing_header"
    MALFORMED_HEADER = "malformed_header"
    MISSING_FIELD = "missing_field"
    WRONG_KEY = "wrong_key"
    BODY_CHANGED = "body_changed"
    STALE = "stale"
    FUTURE = "future"
    MISSING_CREDENTIALS = "missing_credentials"
    WRONG_CREDENTIALS = "wrong_credentials"
    EXPIRED_TOKEN = "expired_token"  # noqa: S105 - a reason, no secret
    UNKNOWN_TOPIC = "unknown_topic"
    CERTIFICATE = "certificate"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    BAD_ENCODING = "bad_encoding"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"


class ReceiverError(Exception):
    """The root of the errors that are part of normal operation."""


class Refused(ReceiverError):
    """The request is not proven to come from the provider.

    `again`: the cause may pass or is likely our own mistake, so answer with the provider's "try again" code.
    `authentic`: the signature is right and only its time is not, so the delivery is kept in quarantine.
    `proof`: then the signed text, where it is not the whole body; see `Authentic`.
    `challenge`: the value of `WWW-Authenticate` in a 401, for a sender that shows its credentials only when asked.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        again: bool = False,
        authentic: bool = False,
        proof: bytes | None = None,
        challenge: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.again = again
        self.authentic = authentic
        self.proof = proof
        self.challenge = challenge


class Unreadable(ReceiverError):
    """Authentic input that does not have the shape its provider documents."""


class Unavailable(ReceiverError):
    """Something this request needs does not answer now; trying again later is right."""


class SchemaError(ReceiverError):
    """The schema does not fit this release, or cannot be brought up to date now; the message says what to do."""


class EmbeddedError(ReceiverError):
    """The embedded Postgres could not be found, started or locked."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: which key, what is wrong, what a right value looks like."""

    key: str
    wrong: str
    right: str

    def __str__(self) -> str:
        return f"{self.key}: {self.wrong}. {self.right}"


class ConfigError(Exception):
    """The configuration cannot be used. Never contains a secret's value."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
