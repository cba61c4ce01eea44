"""`/u/...`, `/p/...`, `/c/...`: what people reach by links in mail. GET shows a page and changes nothing; POST acts.

One-click unsubscribing is RFC 8058: a POST to `/u/{token}` acts whatever its body, and is answered 200 without
redirect or cookie. The buttons of our own pages add a query (`?page`), so that no body decides what happens.
No cookie and no login stands behind a page, hence there is nothing that another site could make use of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

import structlog

from receiver.contacts import choices, links, opt_in
from receiver.contacts.choices import Method, Visit
from receiver.contacts.links import Leaving
from receiver.contract import Answer
from receiver.forms import fields_of
from receiver.networks import Address, Proxies, read_address
from receiver.page_settings import PageSettings
from receiver.printable import printable
from receiver.store import choices as stored
from receiver.store import confirmations
from receiver.store.confirmations import Confirmation
from receiver.store.connect import AWAY, KeptConnections
from receiver.store.sql import Sql
from receiver.vault import Vault
from receiver.web.request import GaveUp, Request
from receiver.web.screens import ALLOW, HEADERS, Screens

log = structlog.get_logger("pages")

CONNECTIONS: Final = 3  # to the database, for all pages of a process
WITHIN: Final = 4.0  # seconds to wait for one of them, and then for what is done with it
MAX_BODY: Final = 64 * 1024
MAX_AGENT: Final = 500  # characters

_OPTIONS: Final = Answer(status=204, headers=(*HEADERS, ALLOW))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What a request asks of a page. `does`: the query of a POST, which says what the button is for; None: a GET."""

    does: str | None
    content_type: str
    body: bytes
    at: datetime
    client_ip: Address | None
    user_agent: str | None

    def visit(self, address_hash: bytes, method: Method) -> Visit:
        return Visit(
            address_hash=address_hash, at=self.at, method=method, client_ip=self.client_ip, user_agent=self.user_agent
        )


_Page: TypeAlias = Callable[[Sql, _Call], Awaitable[Answer]]


class Pages:
    """The pages' part of the public listener. `public_url`: for links in mail; None where none can be mailed."""

    paths: Final = frozenset(links.PATHS.values())

    def __init__(
        self,
        connections: KeptConnections,
        vault: Vault,
        settings: PageSettings,
        public_url: str | None,
        proxies: Proxies,
    ) -> None:
        self._connections = connections
        self._vault = vault
        self._settings = settings
        self._public_url = public_url
        self._proxies = proxies
        self._screens = Screens(settings)
        self._tasks: set[asyncio.Task[None]] = set()

    # What the listener asks ---------------------------------------------------------------------------------------

    def begin(self, request: Request) -> Answer | None:
        if request.method == b"OPTIONS":
            return _OPTIONS
        if request.method not in (b"GET", b"HEAD", b"POST"):
            return self._screens.not_allowed()
        request.path, request.query = request.target()
        request.limit = MAX_BODY
        return None if self._page(request.path) else self._screens.not_found()

    def arrived(self, request: Request) -> None:
        page = self._page(request.path)
        assert page is not None
        task = asyncio.get_running_loop().create_task(self._answer(request, page))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def give_up(self, request: Request, why: GaveUp) -> Answer:  # noqa: ARG002 - every part of a site is asked so
        if why is GaveUp.TOO_MUCH:
            return self._screens.unavailable()
        return self._screens.not_whole(413 if why is GaveUp.TOO_LARGE else 408)

    # ---------------------------------------------------------------------------------------------------------------

    def _page(self, path: str) -> _Page | None:
        """What the token at the end of the path is good for; None for one that we have not made."""
        prefix, token = path[:3], path[3:]
        if prefix == links.PATHS["unsubscribe"]:
            leaving = links.read_unsubscribe(self._vault, token)
            return partial(self._unsubscribe, leaving) if leaving else None
        kind: links.Kind = "preferences" if prefix == links.PATHS["preferences"] else "confirmation"
        id_ = links.read_mailed(self._vault, kind, token)
        return partial(self._mailed, kind, id_) if id_ else None

    async def _answer(self, request: Request, page: _Page) -> None:
        try:
            async with self._connections.transaction(within=WITHIN) as sql:
                answer = await page(sql, self._call(request))
        except AWAY as error:
            log.warning("a page cannot reach the database", action="page_unavailable", error=type(error).__name__)
            answer = self._screens.unavailable()
        except Exception:  # a fault of ours: whatever was begun is rolled back
            log.exception("a page failed", action="page_failed")
            answer = self._screens.failed()
        request.connection.answer(request, answer)

    def _call(self, request: Request) -> _Call:
        client = self._proxies.client(request.client, request.headers)
        agent = printable(request.headers.get("user-agent", ""))[:MAX_AGENT]
        return _Call(
            does=request.query if request.method == b"POST" else None,
            content_type=request.headers.get("content-type", ""),
            body=bytes(request.body),
            at=datetime.now(UTC),
            client_ip=None if client is None else read_address(client),
            user_agent=agent or None,
        )

    # /u/ ----------------------------------------------------------------------------------------------------------

    async def _unsubscribe(self, leaving: Leaving, sql: Sql, call: _Call) -> Answer:
        topic = await stored.topic(sql, leaving.topic) if leaving.topic else None
        brand = topic.brand if topic else leaving.brand
        title = topic.title if topic else leaving.topic
        if call.does is None:
            return self._unsubscribing(
                f"Unsubscribe from {title}?" if title else "Unsubscribe?", brand, title, done=False
            )
        if call.does == "preferences":
            if self._public_url is None:  # since the page was shown
                return self._screens.not_found()
            await opt_in.mail_preferences(
                sql, self._vault, self._public_url, leaving.address_hash, brand, call.at
            )  # what became of it is nobody's business who has the link alone
            return self._mail_comes(brand)
        visit = call.visit(leaving.address_hash, "page" if call.does == "page" else "one_click")
        await choices.leave(sql, visit, topic=leaving.topic, brand=leaving.brand, send=leaving.send)
        return self._unsubscribing("You are unsubscribed", brand, title, done=True)

    def _unsubscribing(self, heading: str, brand: str, topic: str, *, done: bool) -> Answer:
        can_mail = self._public_url is not None
        return self._screens.page("unsubscribe.html", heading, brand=brand, topic=topic, done=done, can_mail=can_mail)

    def _mail_comes(self, brand: str) -> Answer:
        return self._screens.message(
            "Look into your mailbox",
            "If we know the address that this link was made for, a mail is on its way there. "
            "The link in it works for 24 hours.",
            "Nothing there after ten minutes? Look into the folder for spam.",
            brand=brand,
        )

    # /p/ and /c/ --------------------------------------------------------------------------------------------------

    async def _mailed(self, kind: links.Kind, id_: UUID, sql: Sql, call: _Call) -> Answer:
        link = await confirmations.get(sql, id_)
        if link is None or link.expires_at <= call.at:
            return self._screens.run_out()
        return await (self._preferences if kind == "preferences" else self._confirm)(link, sql, call)

    async def _preferences(self, link: Confirmation, sql: Sql, call: _Call) -> Answer:
        visit, notice = call.visit(link.address_hash, "preferences"), ""
        if call.does == "leave":
            await choices.leave(sql, visit, brand=link.brand)
            notice = "You are unsubscribed from all newsletters and offers."
        elif call.does is not None:
            try:
                fields = fields_of(call.content_type, call.body)
            except ValueError:
                return self._screens.not_whole()
            shown, were, are = ({value for name, value in fields if name == one} for one in ("shown", "was", "topic"))
            wording = self._settings.consent
            await choices.choose(sql, visit, link.brand, shown=shown, were=were, are=are, wording=wording)
            notice = "Your choice is saved."
        return self._screens.page(
            "preferences.html",
            "Saved: the mail you get" if notice else "The mail you get",
            heading="The mail you get",
            brand=link.brand,
            notice=notice,
            address=_masked(await stored.address(sql, link.address_hash)),
            choices=await choices.choices(sql, link.address_hash, link.brand),
            consent=self._settings.consent,
        )

    async def _confirm(self, link: Confirmation, sql: Sql, call: _Call) -> Answer:
        topic = await stored.topic(sql, link.topic)
        if topic is None:
            return self._screens.run_out()
        if call.does is None and link.used_at is None:
            wording = await stored.requested_wording(sql, link.address_hash, link.topic)
            title = "Confirm your subscription"
            return self._screens.page("confirm.html", title, brand=topic.brand, topic=topic, wording=wording)
        if await opt_in.confirm(sql, link, call.visit(link.address_hash, "confirmation")) == "run_out":
            return self._screens.run_out()
        done = f"From now on you get mail about {topic.title}. You can leave at any time, by a link in every mail."
        return self._screens.message("You are subscribed", done, brand=topic.brand)


def _masked(address: str | None) -> str:
    """Enough for its owner to know it by: mail gets forwarded."""
    local, at, domain = (address or "").rpartition("@")
    return f"{local[:1]}•••{at}{domain}" if address else ""
