"""Addresses that people enter: checked as strictly as they can be, and looked up as an event's recipient is."""

from __future__ import annotations

from typing import NamedTuple

from email_validator import EmailNotValidError, validate_email

from receiver.classify.addresses import normalize_address


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
    try:
        found = validate_email(text.strip(), check_deliverability=False, allow_quoted_local=True, test_environment=True)
    except EmailNotValidError as error:
        raise WrongAddress(str(error).replace(text, "the address")) from None
    key = normalize_address(found.normalized)
    if key is None:
        raise WrongAddress("The address cannot be looked up.")
    return Address(key, found.normalized)
