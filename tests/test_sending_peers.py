"""What goes over the wire, judged by what the providers publish: descriptions of their APIs, clients, a server."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ConfigDict, TypeAdapter

from receiver.sending import sigv4
from receiver.sending.message import Message
from receiver.sending.transport import Outcome, Sent
from tests.api_peer import api_peer
from tests.ports import free_port
from tests.prism import BIN, PEERS, Call, prism
from tests.test_sending_rest import WHOLE, transport
from tests.test_sending_smtp import message

pytestmark = pytest.mark.peers

TEMPLATE = message(template_id="welcome", data={"NAME": "Ann", "COUNT": 2}, text=None, tags=["welcome"])
# No registry of packages has Resend's description. This is what its version 1.5.0 says of one call, in our words:
# https://github.com/resend/resend-openapi, resend.yaml (seen 2026-11).
DESCRIBED = Path(__file__).parent / "described"
CALLS = [
    Call(file="resend.json", path="/emails", directory=DESCRIBED),
    Call(file="sendgrid.com.json", path="/mail/send", prefix="/v3", needless=("content",)),
    # https://postmarkapp.com/developer/api/templates-api (seen 2026-11): streams and metadata are newer than the
    # description, a template has an id or an alias, and a name may stand before an address.
    Call(file="postmarkapp.com/server.json", path="/email", otherwise=("MessageStream", "Metadata")),
    Call(
        file="postmarkapp.com/server.json",
        path="/email/withTemplate",
        otherwise=("MessageStream", "Metadata", "From", "To"),
        needless=("TemplateId", "TemplateAlias"),
    ),
]


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages of providers can be imported."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(PEERS / "python")])


async def test_requests_are_as_openapi_describes_them(tmp_path: Path) -> None:
    """SendGrid's, Postmark's and Resend's descriptions allow our requests, and nothing that they do not name"""
    names = ("sendgrid", "postmark", "resend")
    async with prism(tmp_path, CALLS) as peer:
        found = [await _sent(name, peer.url, one) for name in names for one in (WHOLE, TEMPLATE)]
        assert [type(one) for one in found] == [Sent] * 6, "".join(peer.lines[-40:])
        async with httpx.AsyncClient() as client:
            wrong = [
                await client.post(f"{peer.url}/email", json={"From": "a@shop.example", "Too": "b@example.com"}),
                await client.post(f"{peer.url}/emails", json={"from": "a", "to": "b", "subject": "s", "replyTo": "c"}),
            ]
    assert [one.status_code for one in wrong] == [422, 422]


async def _sent(name: str, url: str, given: Message) -> Outcome:
    sender = transport(name, url)
    try:
        return await sender.send(given)
    finally:
        await sender.aclose()


async def _asked(name: str, sent: Message) -> dict[str, Any]:
    async with api_peer() as peer:
        await _sent(name, peer.url, sent)
    found: dict[str, Any] = json.loads(peer.asked[0].body)
    return found


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("sent", [WHOLE, TEMPLATE], ids=["whole", "template"])
async def test_requests_are_as_amazons_client_describes_them(sent: Message) -> None:
    """what botocore knows of SendEmail allows our requests; it finds names that are not in it"""
    session = import_module("botocore.session").get_session()
    shape = session.get_service_model("sesv2").operation_model("SendEmail").input_shape
    report = import_module("botocore.validate").ParamValidator().validate
    asked = await _asked("ses", sent)
    assert report(asked, shape).generate_report() == ""
    assert "Unknown" in report(asked | {"Destinations": {}}, shape).generate_report()


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("sent", [WHOLE, TEMPLATE], ids=["whole", "template"])
async def test_requests_are_as_resends_client_describes_them(sent: Message) -> None:
    """the types of Resend's own client allow our requests, and nothing that they do not name"""
    types = import_module("resend.emails._emails")
    for one in vars(types).values():
        if isinstance(one, type) and hasattr(one, "__total__"):
            one.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]  # what pydantic reads
    check = TypeAdapter(types.Emails.SendParams).validate_python
    asked = await _asked("resend", sent)
    check(asked)
    with pytest.raises(ValueError, match="replyTo"):
        check(asked | {"replyTo": ["help@shop.example"]})


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("token", [None, "session/token=="])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "outbound-emails", b'{"a": 1}'),
        ("GET", "suppression/addresses?NextToken=a%2Fb%2B%3D&A=x%20y", b""),
        ("DELETE", "suppression/addresses/ann%2Bb%40example.com", b""),
    ],
)
def test_signatures_are_those_of_amazons_client(method: str, path: str, body: bytes, token: str | None) -> None:
    """botocore signs the same request at the same time in the same way"""
    auth, request = import_module("botocore.auth"), import_module("botocore.awsrequest").AWSRequest
    key, url = ("AKIDEXAMPLE", "secret+/key", token), f"https://email.eu-west-1.amazonaws.com/v2/email/{path}"
    now = datetime(2026, 11, 26, tzinfo=UTC)
    ours = sigv4.sign(method, url, body, sigv4.Credentials(*key), "eu-west-1", "ses", now)
    same = request(method=method, url=url, data=body)
    for name in ours.keys() - {"authorization", "host"}:
        same.headers[name] = ours[name]
    same.context["timestamp"] = ours["x-amz-date"]
    signer = auth.SigV4Auth(import_module("botocore.credentials").Credentials(*key), "ses", "eu-west-1")
    signature = signer.signature(signer.string_to_sign(same, signer.canonical_request(same)), same)
    assert ours["authorization"].endswith(f"Signature={signature}")


@asynccontextmanager
async def ses_server() -> AsyncIterator[str]:
    """An SES of our own: the address of its API."""
    port = free_port()
    started = await asyncio.create_subprocess_exec(
        *(BIN / "aws-ses-v2-local", "--port", str(port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert started.stdout is not None
    try:
        async with asyncio.timeout(60):
            while b"running" not in await started.stdout.readline():
                pass
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        await started.communicate()


async def test_ses_takes_the_whole_message() -> None:
    """an SES that is not Amazon's reads the message as it was meant, and no blind copies in it"""
    async with ses_server() as url:
        sent = await _sent("ses", url, WHOLE)
        async with httpx.AsyncClient() as client:
            (kept,) = (await client.get(f"{url}/store")).json()["emails"]
    assert isinstance(sent, Sent)
    assert kept["messageId"] == sent.provider_message_id
    assert kept["destination"] == {"to": ['"Ann" <ann@example.com>'], "cc": ["cc@example.com"], "bcc": []}
    assert (kept["subject"], [one["filename"] for one in kept["attachments"]]) == (WHOLE.subject, ["logo.png", "a.pdf"])
