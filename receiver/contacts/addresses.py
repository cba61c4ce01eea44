"""Addresses that people enter: checked as strictly as they can be, and looked up as an event's recipient is."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from receiver.classify.addresses import normalize_address

# Nearly every address: letters and digits on both sides, which need none of the validator's other rules. It takes a
# hundred times as long, and files have millions. No `--`: it marks the ASCII form of another alphabet.
_COMMON: Final = re.compile(
    r"(?=.{6,254}\Z)(?!.*--)(?P<local>(?=[^@]{1,64}@)[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*)"
    r"@(?P<domain>(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?P<last>[a-z]{2,63}))",
    re.ASCII | re.IGNORECASE,
)
_SPECIAL: Final = frozenset(name.rpartition(".")[2] for name in SPECIAL_USE_DOMAIN_NAMES)


class Address(NamedTuple):
    """`key`: as it is looked up, the form of `events.recipient`. `display`: as the person writes it."""

    key: str
    display: str


class WrongAddress(ValueError):
    """The text is no address that mail could be sent to; says why, and does not quote it."""


def entered(text: str) -> Address:
    """The address in a form, file or command. Dots and plus stay: two mailboxes may differ in them alone.

    Raises WrongAddress.
    """
    text = text.strip()
    common = _COMMON.fullmatch(text)
    if common and common["last"].lower() not in _SPECIAL:
        return Address(text.lower(), f"{common['local']}@{common['domain'].lower()}")
    try:
        found = validate_email(text, check_deliverability=False, allow_quoted_local=True, test_environment=True)
    except EmailNotValidError as error:
        raise WrongAddress(str(error).replace(text, "the address")) from None
    key = normalize_address(found.normalized)
    if key is None:
        raise WrongAddress("The address cannot be looked up.")
    return Address(key, found.normalized)
