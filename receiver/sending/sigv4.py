"""Signatures of requests to Amazon's services, version 4.

Document: https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html (seen 2026-11).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_PLAIN: Final = "-_.~"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key; `token` with temporary ones."""

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def sign(  # noqa: PLR0917 - what a request is
    method: str, url: str, body: bytes, credentials: Credentials, region: str, service: str, now: datetime
) -> dict[str, str]:
    """The headers of a JSON request, its signature among them. `now`: aware, UTC."""
    parts = urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"content-type": "application/json", "host": parts.netloc, "x-amz-date": stamp}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    request = canonical(method, parts, headers, body)
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = _mac(key, part)
    signature = _mac(key, text).hex()
    named = ";".join(sorted(headers))
    proof = f"{_ALGORITHM} Credential={credentials.key_id}/{scope}, SignedHeaders={named}, Signature={signature}"
    return {**headers, "authorization": proof}


def canonical(method: str, url: SplitResult, headers: Mapping[str, str], body: bytes) -> str:
    """The request as both sides write it down to sign it. Path segments are encoded twice, but for S3."""
    pairs = sorted((quote(name, safe=_PLAIN), quote(value, safe=_PLAIN)) for name, value in parse_qsl(url.query))
    path, query = quote(url.path, safe=f"/{_PLAIN}"), "&".join(f"{name}={value}" for name, value in pairs)
    lines = [f"{name}:{' '.join(value.split())}" for name, value in sorted(headers.items())]
    return "\n".join((method, path, query, *lines, "", ";".join(sorted(headers)), hashlib.sha256(body).hexdigest()))


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)
