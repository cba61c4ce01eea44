"""The API does what its OpenAPI document says: judged by schemathesis, which knows the document and nothing else."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from receiver.event import EventType
from receiver.sending.means import Means
from receiver.sending.templates import Templates
from tests.api import api
from tests.service import play

SETTINGS: Final = """
generation.allow-x00 = false
generation.deterministic = true
generation.max-examples = 6
generation.no-shrink = true
phases.examples.enabled = false
phases.coverage.enabled = false
phases.stateful.enabled = false
phases.fuzzing.enabled = true
{parameters}
"""
# What no document can say: which cursors and keys of repetition are good, the names of time zones, and what is there.
UNSAID: Final = frozenset({"cursor", "Idempotency-Key", "time_zone"})
LEFT_OUT: Final = ("message", "topic", "stream", "account", "at", "cancel_on")  # each is right with some others alone
KNOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "Said": {"topic": "news"},
    "SavedSegment": {"filter": {"tag": "x"}},
    "AskedPreview": {"filter": {"tag": "x"}},
    "NewSend": {"to": "ada@one.test", "template": "known", **dict.fromkeys(LEFT_OUT)},
    "NewBroadcast": {"template": "known", "topic": "news", "segment": None, "account": None},
}


def said(document: Any) -> Any:
    """The document without what it cannot say."""
    match document:
        case dict():
            return {
                name: {key: said(one) for key, one in value.items() if key not in UNSAID}
                if name == "properties" and isinstance(value, dict)
                else said(value)
                for name, value in document.items()
            }
        case list():
            return [said(one) for one in document if not (isinstance(one, dict) and one.get("name") in UNSAID)]
        case _:
            return document


async def test_the_api_does_what_its_document_says(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """every operation takes what its schema allows, refuses what it does not, and answers as it says, never with 500"""
    monkeypatch.setattr("receiver.web.api.authentication.GUESSES", (1_000_000, 1.0))
    sendgrid = play("sendgrid", tmp_path)
    (tmp_path / "known").mkdir()
    for part in ("subject.txt", "body.txt"):
        (tmp_path / "known" / part).write_text("Hello")
    (tmp_path / "known" / "meta.toml").write_text('topic = "news"')
    means = Means(templates=Templates(tmp_path), accounts=("main",), public_url="https://mail.one.test")
    async with api(database, sendgrid, means=means) as one:
        (post,) = sendgrid.posts(EventType.DELIVERED, "ada@one.test")
        assert (await one.service.post("sendgrid", post)).status_code == 200
        (event,) = await one.service.events()
        contact = await one.post("/contacts", {"address": "ada@one.test"})
        await one.post("/topics", {"name": "news", "title": "News"})
        await one.call("PUT", "/segments/known", json={"filter": {"tag": "x"}})
        send = await one.post("/sends", {"to": "ada@one.test", "template": "known", "topic": "news"})
        await one.post("/broadcasts", {"name": "known", "template": "known", "topic": "news"})
        document = said((await one.client.get("/api/v1/openapi.json")).json())
        for model, values in KNOWN.items():
            schema = document["components"]["schemas"][model]
            for name, value in values.items():
                if value is None:
                    del schema["properties"][name]
                else:
                    schema["properties"][name] = {"const": value}
                    schema["required"] = sorted({*schema["required"], name})
        known = {"contact": str(contact["id"]), "topic": "news", "segment": "known", "event": str(event["id"])}
        known |= {"send": send["id"], "broadcast": "known"}
        ended = await schemathesis(tmp_path, document, one.service.admin_url, one.key, known)
    assert ended == 0


async def schemathesis(directory: Path, document: Any, url: str, key: str, known: Mapping[str, str]) -> int:
    """Its exit code: 0 where it found nothing wrong. `known`: values for parts of paths that lead somewhere."""
    (directory / "openapi.json").write_text(json.dumps(document))
    parameters = "\n".join(f'parameters."path.{name}" = "{value}"' for name, value in known.items())
    (directory / "schemathesis.toml").write_text(SETTINGS.format(parameters=parameters))
    command = [str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run", "openapi.json", "--url", url]
    process = await asyncio.create_subprocess_exec(
        *command, "--header", f"Authorization: Bearer {key}", cwd=directory, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    print(printed.decode())  # noqa: T201 - shown where the test fails
    assert process.returncode is not None
    return process.returncode
