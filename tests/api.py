"""The API of the running service as a test uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from receiver.api_keys import SCOPES, START, digest, make_key
from receiver.store import api_keys
from tests.service import Played, Running, running


@dataclass
class Api:
    """A client with a key that may do everything, unless a call says otherwise."""

    service: Running
    client: httpx.AsyncClient
    key: str

    async def make_key(self, *scopes: str, expires: timedelta | None = None) -> tuple[int, str]:
        """Number and key."""
        key = make_key()
        new = api_keys.NewKey(
            name="test", start=key[:START], hash=digest(key), scopes=scopes, created_by="test",
            expires_at=None if expires is None else datetime.now(UTC) + expires,
        )  # fmt: skip
        row = await api_keys.make(self.service.connection, new)
        return row["id"], key

    async def call(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.key}", **options.pop("headers", {})}
        return await self.client.request(method, f"/api/v1{path}", headers=headers, **options)

    async def get(self, path: str, **options: Any) -> Any:
        """The answer's JSON, if it is a good one."""
        answer = await self.call("GET", path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any, *, status: Sequence[int] = (200, 201), **options: Any) -> Any:
        answer = await self.call("POST", path, json=body, **options)
        assert answer.status_code in status, answer.text
        return answer.json()


@asynccontextmanager
async def api(dsn: str, *played: Played, **options: Any) -> AsyncIterator[Api]:
    async with (
        running(dsn, *played, **options) as service,
        httpx.AsyncClient(base_url=service.admin_url, timeout=30) as client,
    ):
        one = Api(service, client, "")
        _, one.key = await one.make_key(*SCOPES)
        yield one
