"""`POST /oauth/token`: access tokens for the clients of sources (RFC 6749, sections 4.4 and 5).

Who knows a client's secret is limited by itself alone: behind a proxy that nobody has named in `trusted_proxies` all
have one address, and a stranger who guesses must not keep a provider from its token. The guesses of an address are
answered at a limited rate, counted, and sampled as the source's refusals.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import structlog

from receiver.contract import Answer, Delivery
from receiver.errors import Reason
from receiver.ingest.credit import Credit
from receiver.ingest.receive import Ingest
from receiver.networks import Proxies, neighbourhood
from receiver.oauth import LIFETIME, Client, ClientSettings
from receiver.sources import Source
from receiver.web.client_credentials import MAX_BODY, WrongRequest, issued, later, read_request, refused
from receiver.web.request import GaveUp, Request

log = structlog.get_logger("tokens")

ISSUED: Final = (60, 1.0)  # tokens of one client at once, and seconds until it may have one more
GUESSED: Final = (20, 3.0)  # likewise, wrong requests of one address for one client, and of one address for all
MOST: Final = 10_000  # addresses that are remembered


class TokenEndpoint:
    """Issues tokens to the clients of the sources that have one."""

    def __init__(self, sources: Mapping[str, Source], ingest: Ingest, proxies: Proxies) -> None:
        clients = [(one, Client(one.settings)) for one in sources.values() if isinstance(one.settings, ClientSettings)]
        self._clients = {client.id: (source, client) for source, client in clients if client}
        self._ingest = ingest
        self._proxies = proxies
        self._issued = Credit(*ISSUED)
        self._guessed = Credit(*GUESSED, most=MOST)

    def __bool__(self) -> bool:
        return bool(self._clients)

    def begin(self, request: Request) -> Answer | None:
        """None to get the body; else the answer."""
        request.limit = MAX_BODY
        return None if request.method == b"POST" else Answer(status=405, headers=(("allow", "POST"),))

    def arrived(self, request: Request) -> None:
        """The body is whole."""
        client = self._proxies.client(request.client, request.headers)
        answer = self.answer(request.headers, bytes(request.body), client, datetime.now(UTC))
        request.connection.answer(request, answer)

    def give_up(self, request: Request, why: GaveUp) -> Answer:  # noqa: ARG002 - every part of a site is asked so
        """The answer to a body that does not come whole."""
        return Answer(status={GaveUp.TOO_LARGE: 413, GaveUp.TOO_SLOW: 408}.get(why, 503))

    def answer(self, headers: Mapping[str, str], body: bytes, client: str | None, now: datetime) -> Answer:
        """A token, or an error. `client`: the address of who asks."""
        try:
            asked = read_request(headers, body)
        except WrongRequest as wrong:
            return self._refuse(wrong, client, "")
        for id_, secret in asked.pairs:
            source, known = self._clients.get(id_, (None, None))
            if source is not None and known is not None and (token := known.issue(secret, source.name, now)):
                return self._token(token, source, known)
        if asked.id in self._clients:
            source, _ = self._clients[asked.id]
            delivery = Delivery(source=source.name, headers=headers, body=body, client=client, at=now)
            self._ingest.refused(source, delivery, Reason.WRONG_CREDENTIALS, "asked for a token with a wrong secret")
        return self._refuse(WrongRequest("invalid_client", "no such client, or a wrong secret"), client, asked.id)

    def _token(self, token: str, source: Source, client: Client) -> Answer:
        if not self._issued.take(client.id):
            log.warning("too many tokens", action="token_limited", source=source.name)
            return later(ISSUED[1])
        log.info("issued a token", action="token_issued", source=source.name)
        return issued(token, LIFETIME)

    def _refuse(self, wrong: WrongRequest, client: str | None, id_: str) -> Answer:
        place = neighbourhood(client)
        known = id_ if id_ in self._clients else ""  # a stranger cannot make up keys
        if not (self._guessed.take(place) and (not known or self._guessed.take((place, known)))):
            return later(GUESSED[1])
        log.info("refused a token", action="token_refused", error=wrong.code)
        return refused(wrong)
