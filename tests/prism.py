"""Prism, which answers as an API would, and only to requests that its OpenAPI description allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ports import free_port

PEERS = Path(__file__).parent.parent / ".peers"  # what tests/install-peers installs there
BIN = PEERS / "node_modules/.bin"
OPENAPI = PEERS / "openapi"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an API: which description has it, its path there, and where the API stands.

    `otherwise`: fields that the provider's documents describe otherwise. `needless`: fields that the description
    demands, and the provider does not.
    """

    file: str
    path: str
    directory: Path = OPENAPI
    prefix: str = ""
    otherwise: tuple[str, ...] = ()
    needless: tuple[str, ...] = ()


@dataclass
class Prism:
    """`lines`: what it has said."""

    url: str
    lines: list[str] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, stream: asyncio.StreamReader) -> None:
        """Until it ends."""
        async for line in stream:
            self.lines.append(line.decode())
            if b"is listening" in line:
                self.ready.set()


@asynccontextmanager
async def prism(directory: Path, calls: list[Call]) -> AsyncIterator[Prism]:
    """Answers to these calls with 200, and to what is not as described with another status."""
    port = free_port()
    peer = Prism(f"http://127.0.0.1:{port}")
    document = directory / "openapi.json"
    document.write_text(json.dumps(_described(calls)))
    started = await asyncio.create_subprocess_exec(
        *(BIN / "prism", "mock", "--errors", "--port", str(port), document),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert started.stdout is not None

    listening = asyncio.create_task(peer.listen(started.stdout))
    try:
        async with asyncio.timeout(60):
            await peer.ready.wait()
        yield peer
    finally:
        started.terminate()
        await started.wait()
        await listening


def _described(calls: list[Call]) -> dict[str, Any]:
    """One description of all of them, in which a name that is not described is a mistake."""
    paths = {}
    for call in calls:
        whole = json.loads((call.directory / call.file).read_text())
        schema = _whole(whole["paths"][call.path]["post"]["requestBody"], whole)["content"]["application/json"][
            "schema"
        ]
        schema["properties"] |= {name: {} for name in call.otherwise}
        schema["required"] = [name for name in schema.get("required", []) if name not in call.needless]
        content = {"application/json": {"schema": _closed(schema)}}
        taken = {"200": {"description": "taken"}}
        paths[call.prefix + call.path] = {
            "post": {"requestBody": {"required": True, "content": content}, "responses": taken}
        }
    return {"openapi": "3.0.0", "info": {"title": "all", "version": "1"}, "paths": paths}


def _whole(part: Any, document: Mapping[str, Any]) -> Any:
    """With what it refers to in place of the references."""
    if isinstance(part, list):
        return [_whole(one, document) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" not in part:
        return {name: _whole(value, document) for name, value in part.items()}
    found: Any = document
    for name in part["$ref"].split("/")[1:]:
        found = found[name]
    return _whole(found, document)


def _closed(part: Any) -> Any:
    if isinstance(part, list):
        return [_closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: _closed(value) for name, value in part.items()}
    return {"additionalProperties": False, **found} if isinstance(part.get("properties"), dict) else found
