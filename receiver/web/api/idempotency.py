"""`Idempotency-Key`: a request that is repeated, because its answer was lost, is done once.

The answer is kept in the transaction that did the work: there is no moment at which one is there without the other. A
refused request has done nothing and is not kept, so it may come again, mended, with the same key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from receiver.store import api_requests
from receiver.store.sql import Sql
from receiver.vault import Vault
from receiver.web.api.authentication import Key
from receiver.web.api.problems import Fault, Kind, Problem

HEADER: Final = "idempotency-key"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_CONTEXT: Final = "api_requests"
_KEPT: Final = frozenset({"content-type", "location"})


class _Answer(msgspec.Struct, array_like=True):
    headers: Mapping[str, str]
    body: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Answer).decode


def asked(request: Request, key: Key, body: bytes) -> api_requests.Asked | None:
    """Which request it is; None without the header. Raises Problem."""
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not _KEY.fullmatch(given):
        detail = "Idempotency-Key must be 1 to 255 visible ASCII characters"
        raise Problem(Kind.INVALID, detail, errors=[Fault(detail=detail, parameter="Idempotency-Key")])
    what = [request.method.encode(), request.url.path.encode(), request.url.query.encode(), body]
    digest = hashlib.sha256()
    for part in what:
        digest.update(len(part).to_bytes(8) + part)
    return api_requests.Asked(key.id, given, digest.digest())


async def once(sql: Sql, vault: Vault, request: api_requests.Asked, do: Callable[[], Awaitable[Response]]) -> Response:
    """The answer of `do`, or of the first request with this key. Within a transaction. Raises Problem."""
    if not await api_requests.take(sql, request):
        raise Problem(Kind.IN_HAND, "ask again in a moment", headers=[("retry-after", "1")])
    row = await api_requests.find(sql, request)
    if row is None:
        answer = await do()
        headers = {name: value for name, value in answer.headers.items() if name in _KEPT}
        sealed = vault.encrypt(_encode(_Answer(headers, bytes(answer.body))), context=_CONTEXT)
        await api_requests.keep(sql, request, answer.status_code, sealed)
        return answer
    if row["fingerprint"] != request.fingerprint:
        raise Problem(
            Kind.IDEMPOTENCY_KEY_REUSED,
            "take a new Idempotency-Key for each request; the same one only to repeat it unchanged",
        )
    first = _decode(vault.decrypt(row["answer"], context=_CONTEXT))
    return Response(first.body, row["status"], {**first.headers, "idempotency-replayed": "true"})
