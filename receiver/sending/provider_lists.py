"""The suppression lists that providers keep: read, added to, taken from. Whoever is on one gets no mail through it.

| provider | document, seen 2026-11 |
|---|---|
| SendGrid | https://www.twilio.com/docs/sendgrid/api-reference/bounces-api, .../suppressions-global-suppressions |
| Mailgun | https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/bounces |
| Postmark | https://postmarkapp.com/developer/api/suppressions-api |
| Amazon SES | https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_ListSuppressedDestinations.html |
| Resend | https://resend.com/docs/api-reference/suppressions/list-suppressions, .../add-suppressions |
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, urlencode, urlsplit

from pydantic import SecretStr

from receiver.contacts.suppression_files import Reason
from receiver.sending import mailgun, postmark, resend, sendgrid, ses
from receiver.sending.accounts import AccountSettings
from receiver.sending.list_client import ListClient, ListFault
from receiver.sending.sigv4 import sign

_JSON: Final = {"content-type": "application/json", "accept": "application/json"}
_PAGE: Final = 500  # rows, SendGrid's most


class Page(NamedTuple):
    """Some rows of one list, as the provider writes them."""

    list: str
    rows: Sequence[Mapping[str, Any]]


class ProviderLists(Protocol):
    """What one account has. `batch`: most addresses in one call. `marketing`: it can hold back marketing mail alone.

    `reason`: for which those are there, by the provider's word, whom we have added.
    """

    batch: int
    marketing: bool
    reason: Reason
    client: ListClient

    def pages(self) -> AsyncIterator[Page]:
        """Everybody who is held back. Raises ListFault."""
        ...

    async def add(self, addresses: Sequence[str], *, all_mail: bool) -> int:
        """Hold them back; the number of those that were refused. Raises ListFault."""
        ...

    async def remove(self, name: str, addresses: Sequence[str]) -> int:
        """Take them off one list; the number of those that were refused. Raises ListFault."""
        ...


def _bearer(key: SecretStr, _method: str, _url: str, _body: bytes) -> Mapping[str, str]:
    return {**_JSON, "authorization": f"Bearer {key.get_secret_value()}"}


class SendGridLists:
    """By API only the global unsubscribes can be added to: they hold back all mail."""

    batch = 500
    marketing = False
    reason: Reason = "unsubscribe"

    def __init__(self, settings: sendgrid.Settings) -> None:
        self.client = ListClient(settings.url, settings.api_key, _bearer, private=settings.private)

    async def pages(self) -> AsyncIterator[Page]:
        for name in ("bounces", "invalid_emails", "spam_reports", "unsubscribes"):
            offset = 0
            while True:
                rows = _rows(await self.client.call("GET", f"/v3/suppression/{name}?limit={_PAGE}&offset={offset}"))
                yield Page(name, rows)
                if len(rows) < _PAGE:
                    break
                offset += len(rows)

    async def add(self, addresses: Sequence[str], *, all_mail: bool) -> int:  # noqa: ARG002 - see `marketing`
        await self.client.call("POST", "/v3/asm/suppressions/global", {"recipient_emails": list(addresses)})
        return 0

    async def remove(self, name: str, addresses: Sequence[str]) -> int:
        if name == "unsubscribes":
            for one in addresses:
                await self.client.call("DELETE", f"/v3/asm/suppressions/global/{_part(one)}", missing=True)
        else:
            await self.client.call("DELETE", f"/v3/suppression/{name}", {"emails": list(addresses)}, missing=True)
        return 0


class MailgunLists:
    """The lists of one domain. What we add are bounces."""

    batch = 1000
    marketing = False
    reason: Reason = "hard_bounce"

    def __init__(self, settings: mailgun.Settings) -> None:
        def head(key: SecretStr, _method: str, _url: str, _body: bytes) -> Mapping[str, str]:
            basic = b64encode(f"api:{key.get_secret_value()}".encode()).decode()
            return {**_JSON, "authorization": f"Basic {basic}"}

        self._domain = settings.sending_domain or settings.domain
        self.client = ListClient(settings.url, settings.api_key, head, private=settings.private)

    async def pages(self) -> AsyncIterator[Page]:
        for name in ("bounces", "complaints", "unsubscribes"):
            query = "limit=1000"
            while True:
                found = await self.client.call("GET", f"/v3/{self._domain}/{name}?{query}")
                rows = _rows(found, "items")
                if not rows:
                    break
                yield Page(name, rows)
                # Of the address that it names only the query is taken: our key goes to no other place.
                before, query = query, urlsplit(str(_object(found.get("paging")).get("next", ""))).query
                if query in ("", before):
                    break

    async def add(self, addresses: Sequence[str], *, all_mail: bool) -> int:  # noqa: ARG002 - see `marketing`
        rows = [{"address": one, "code": "550", "error": "suppressed by email-event-receiver"} for one in addresses]
        await self.client.call("POST", f"/v3/{self._domain}/bounces", rows)
        return 0

    async def remove(self, name: str, addresses: Sequence[str]) -> int:
        for one in addresses:
            await self.client.call("DELETE", f"/v3/{self._domain}/{name}/{_part(one)}", missing=True)
        return 0


class PostmarkLists:
    """One list for each message stream; so marketing mail can be held back alone. Complaints cannot be taken off."""

    batch = 50
    marketing = True
    reason: Reason = "manual"

    def __init__(self, settings: postmark.Settings) -> None:
        def head(key: SecretStr, _method: str, _url: str, _body: bytes) -> Mapping[str, str]:
            return {**_JSON, "x-postmark-server-token": key.get_secret_value()}

        self._marketing, self._transactional = settings.marketing_stream, settings.transactional_stream
        self.client = ListClient(settings.url, settings.server_token, head, private=settings.private)

    async def pages(self) -> AsyncIterator[Page]:
        for stream in dict.fromkeys((self._transactional, self._marketing)):
            found = await self.client.call("GET", f"/message-streams/{_part(stream)}/suppressions/dump")
            yield Page(stream, _rows(found, "Suppressions"))

    async def add(self, addresses: Sequence[str], *, all_mail: bool) -> int:
        streams = dict.fromkeys((self._marketing, self._transactional) if all_mail else (self._marketing,))
        return max([await self._change(stream, "", addresses) for stream in streams])

    async def remove(self, name: str, addresses: Sequence[str]) -> int:
        return await self._change(name, "/delete", addresses)

    async def _change(self, stream: str, what: str, addresses: Sequence[str]) -> int:
        value = {"Suppressions": [{"EmailAddress": one} for one in addresses]}
        found = await self.client.call("POST", f"/message-streams/{_part(stream)}/suppressions{what}", value)
        return sum(row.get("Status") == "Failed" for row in _rows(found, "Suppressions"))


class SesLists:
    """The list of the account in its region. What we add counts as a bounce."""

    batch = 1
    marketing = False
    reason: Reason = "hard_bounce"
    _path = "/v2/email/suppression/addresses"

    def __init__(self, settings: ses.Settings) -> None:
        def head(key: SecretStr, method: str, url: str, body: bytes) -> Mapping[str, str]:
            return sign(method, url, body, settings.credentials(key), settings.region, "ses", datetime.now(UTC))

        self.client = ListClient(settings.address, settings.access_key_id, head, private=settings.private)

    async def pages(self) -> AsyncIterator[Page]:
        query = ""
        while True:
            found = await self.client.call("GET", self._path + query)
            yield Page("", _rows(found, "SuppressedDestinationSummaries"))
            token = found.get("NextToken")
            if not token:
                return
            query = "?" + urlencode({"NextToken": token}, quote_via=quote)

    async def add(self, addresses: Sequence[str], *, all_mail: bool) -> int:  # noqa: ARG002 - see `marketing`
        for one in addresses:
            await self.client.call("PUT", self._path, {"EmailAddress": one, "Reason": "BOUNCE"})
        return 0

    async def remove(self, name: str, addresses: Sequence[str]) -> int:  # noqa: ARG002 - there is one
        for one in addresses:
            await self.client.call("DELETE", f"{self._path}/{_part(one)}", missing=True)
        return 0


class ResendLists:
    """The list of the team."""

    batch = 100
    marketing = False
    reason: Reason = "manual"

    def __init__(self, settings: resend.Settings) -> None:
        self.client = ListClient(settings.url, settings.api_key, _bearer, private=settings.private)

    async def pages(self) -> AsyncIterator[Page]:
        query = "?limit=100"
        while True:
            found = await self.client.call("GET", f"/suppressions{query}")
            rows = _rows(found, "data")
            yield Page("", rows)
            if not rows or not found.get("has_more"):
                return
            query = f"?limit=100&after={_part(str(rows[-1].get('id')))}"

    async def add(self, addresses: Sequence[str], *, all_mail: bool) -> int:  # noqa: ARG002 - see `marketing`
        await self.client.call("POST", "/suppressions/batch/add", {"emails": list(addresses)})
        return 0

    async def remove(self, name: str, addresses: Sequence[str]) -> int:  # noqa: ARG002 - there is one
        await self.client.call("POST", "/suppressions/batch/remove", {"emails": list(addresses)})
        return 0


def lists_of(settings: AccountSettings) -> ProviderLists | None:
    """Those of an account; None: its transport has none that could be asked."""
    match settings:
        case sendgrid.Settings():
            return SendGridLists(settings)
        case mailgun.Settings():
            return MailgunLists(settings)
        case postmark.Settings():
            return PostmarkLists(settings)
        case ses.Settings():
            return SesLists(settings)
        case resend.Settings():
            return ResendLists(settings)
        case _:
            return None


def _rows(found: Any, name: str = "") -> list[dict[str, Any]]:
    """Raises ListFault for an answer of another shape: it must not pass for an empty list."""
    rows = found.get(name) if name and isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        raise ListFault("the provider's answer is no list of suppressions")
    return rows


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _part(text: str) -> str:
    return quote(text, safe="")
