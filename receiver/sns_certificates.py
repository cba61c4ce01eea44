"""The certificates that SNS signs with: fetched once, checked against public roots, kept by URL.

A file on SNS's host may hold the leaf alone; then the certificate that issued it is fetched from where the
leaf says (Authority Information Access). That is plain http, and counts only if the chain ends in a known root.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import AuthorityInformationAccessOID
from cryptography.x509.verification import (
    ClientVerifier,
    ExtensionPolicy,
    PolicyBuilder,
    ServerVerifier,
    Store,
    VerificationError,
)

from receiver.contract import Fetch
from receiver.errors import Reason, Refused, Unavailable

MAX_CERTIFICATE: Final = 16384  # bytes; a leaf has about 2,000
MAX_KEPT: Final = 64
MAX_FAILED: Final = 1024
MAX_AT_ONCE: Final = 8
MAX_WAITING: Final = 256
FORGET_FAILURE: Final = 10.0  # seconds; SNS comes again after 20, and shall then find a new try
MAX_ISSUERS: Final = 2

_Value = TypeVar("_Value")
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]{1,16384}-----END CERTIFICATE-----")


@cache
def public_roots() -> Sequence[x509.Certificate]:
    """The roots that certifi brings."""
    return load_certificates(Path(certifi.where()).read_bytes())


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """All certificates in PEM text that can be read."""
    with warnings.catch_warnings():
        # A few old roots have serial numbers of zero and are about to be refused; they are none of Amazon's.
        warnings.simplefilter("ignore")
        return [found for block in _PEM.findall(pem) if (found := _load(block)) is not None]


def _load(pem: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _Kept:
    key: RSAPublicKey
    until: datetime


class Certificates:
    """The public keys of signing certificates by URL. Callers have checked that the URL is SNS's own.

    One fetch per URL at a time, whoever asks; failures are remembered for ten seconds; only certificates that
    passed are kept, so that made-up URLs push nothing out.
    """

    def __init__(
        self,
        fetch: Fetch,
        now: Callable[[], datetime],
        roots: Callable[[], Sequence[x509.Certificate]] = public_roots,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._roots = roots
        self._kept: dict[str, _Kept] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._running: dict[str, asyncio.Task[_Kept]] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def key(self, url: str, names: Collection[str] | None) -> RSAPublicKey:
        """The key of the certificate at `url`, issued to one of `names`. Raises Refused (try again).

        `names`: `None` where the roots issue certificates for nothing else, so that any name will do.
        """
        kept = self._kept.get(url)
        if kept is not None and kept.until > self._now():
            return kept.key
        self._check_failed(url)
        task = self._running.get(url) or self._start(url, names)
        # Shielded: a caller that is cancelled must not take the certificate from the others who wait for it.
        return (await asyncio.shield(task)).key

    def _check_failed(self, url: str) -> None:
        until, why = self._failed.get(url, (0.0, ""))
        if until > asyncio.get_running_loop().time():
            raise _refused(why)

    def _start(self, url: str, names: Collection[str] | None) -> asyncio.Task[_Kept]:
        if len(self._running) >= MAX_WAITING:
            raise _refused("too many unknown signing certificates at once")
        task = asyncio.get_running_loop().create_task(self._get(url, names))
        self._running[url] = task
        task.add_done_callback(lambda done: self._finish(url, done))
        return task

    def _finish(self, url: str, task: asyncio.Task[_Kept]) -> None:
        del self._running[url]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            _put(self._kept, url, task.result(), MAX_KEPT)
        else:
            until = asyncio.get_running_loop().time() + FORGET_FAILURE
            _put(self._failed, url, (until, str(error)), MAX_FAILED)

    async def _get(self, url: str, names: Collection[str] | None) -> _Kept:
        async with self._slots:
            try:
                found = load_certificates(await self._fetch(url, max_bytes=MAX_CERTIFICATE))
                if not found:
                    raise _refused("what SNS's host served is no certificate")
                await self._check_chain(found[0], found[1:], names)
            except Unavailable as error:
                raise _refused(f"the signing certificate could not be fetched: {error}") from error
        key = found[0].public_key()
        if not isinstance(key, RSAPublicKey):
            raise _refused("the signing certificate has no RSA key")
        return _Kept(key, found[0].not_valid_after_utc)

    async def _check_chain(
        self, leaf: x509.Certificate, issuers: list[x509.Certificate], names: Collection[str] | None
    ) -> None:
        verifier = self._verifier(leaf, names)
        for _ in range(MAX_ISSUERS + 1):
            try:
                verifier.verify(leaf, issuers)
            except VerificationError as error:
                failure = error
            else:
                return
            missing = _issuer_url(issuers[-1] if issuers else leaf)
            if missing is None or len(issuers) >= MAX_ISSUERS:
                break
            issuers.append(_load_any(await self._fetch(missing, max_bytes=MAX_CERTIFICATE)))
        raise _refused(f"the signing certificate is not trusted: {failure}") from failure

    def _verifier(self, leaf: x509.Certificate, names: Collection[str] | None) -> ServerVerifier | ClientVerifier:
        policy = PolicyBuilder().store(Store(list(self._roots()))).time(self._now())
        if names is None:  # neither a server's nor a client's: only the chain counts
            authorities, any_leaf = ExtensionPolicy.webpki_defaults_ca(), ExtensionPolicy.permit_all()
            return policy.extension_policies(ca_policy=authorities, ee_policy=any_leaf).build_client_verifier()
        name = next((name for name in dns_names(leaf) if name in names), None)
        if name is None:
            raise _refused("the signing certificate was not issued to SNS")
        return policy.build_server_verifier(x509.DNSName(name))


def _put(store: dict[str, _Value], url: str, value: _Value, most: int) -> None:
    """Put a value last, and take the oldest out where there are too many."""
    store.pop(url, None)
    if len(store) >= most:
        del store[next(iter(store))]
    store[url] = value


def _refused(detail: str) -> Refused:
    """Trying again is right: the cause is the network, a rotation at AWS, or our clock and roots."""
    return Refused(Reason.CERTIFICATE, detail, again=True)


def dns_names(certificate: x509.Certificate) -> Iterable[str]:
    """The DNS names a certificate was issued to; none where it has no such extension or a broken one."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    return extension.value.get_values_for_type(x509.DNSName)


def _issuer_url(certificate: x509.Certificate) -> str | None:
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    for one in access:
        if one.access_method == AuthorityInformationAccessOID.CA_ISSUERS:
            place = one.access_location
            return place.value if isinstance(place, x509.UniformResourceIdentifier) else None
    return None


def _load_any(data: bytes) -> x509.Certificate:
    """One certificate, DER or PEM. Raises Refused."""
    try:
        return next(iter(load_certificates(data)), None) or x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise _refused("the issuer's certificate cannot be read") from error
