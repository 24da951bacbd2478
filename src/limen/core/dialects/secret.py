"""`v1` Secret: a certificate and key, authorities, a client's secret. Nothing is ever shown.

Source: kubernetes `core/v1` Secret (types, `data`, `stringData`), istio/istio
`pilot/pkg/credentials/kube/secrets.go` (the names of entries).
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, JsonValue, child
from limen.core.dialects.schema import Choice, Field, Only, Sealed
from limen.core.dialects.secret_pem import MAX_BYTES, decode, parse_authorities, parse_pair
from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.model.secret import Authorities, ClientSecret, KeyPair, Secret
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.model.resource import Resource

API_VERSION = "v1"
TLS_TYPE, OPAQUE = "kubernetes.io/tls", "Opaque"
_ENTRIES = {
    "tls.crt": "the server's certificate, then its issuers; PEM",
    "tls.key": "its private key; PEM",
    "ca.crt": "authorities that clients' certificates are judged by; PEM",
    "cert": "the same as tls.crt, of an Opaque Secret",
    "key": "the same as tls.key, of an Opaque Secret",
    "cacert": "the same as ca.crt, of an Opaque Secret",
    "client-secret": "by which a TrustedIssuer's introspection knows us; visible ASCII",
}
CLIENT_SECRET = "client-secret"  # noqa: S105 - the name of an entry
_VISIBLE = re.compile(rb"[!-~]{8,512}")
_SAME = {"cert": "tls.crt", "key": "tls.key", "cacert": "ca.crt"}
_REFUSED = {
    "tls.ocsp-staple": "stapled OCSP answers are a later version",
    "ca.crl": "lists of revoked certificates are a later version",
    "crl": "lists of revoked certificates are a later version",
}
_LATER = "Secrets hold certificates and client-secret; other passwords stay with their owners"
_UNSEEN = "the value is not shown, because it may be secret"


def _judge(value: JsonValue, path: str, out: Findings, *, encoded: bool) -> bool:
    """Whether `value` is a mapping from known names to texts."""
    if not isinstance(value, dict):
        out.error("wrong-type", "a mapping is needed here", path, _UNSEEN)
        return False
    before = out.errors
    for name, entry in value.items():
        place = child(path, name)
        if name in _REFUSED:
            out.error("refused-field", f"{name} is not supported", place, _REFUSED[name])
        elif name not in _ENTRIES:
            hint = f"known here: {', '.join(_ENTRIES)}"
            out.error("unknown-field", "an entry has an unknown name", path, hint)
        elif not isinstance(entry, str) or not entry:
            out.error("wrong-type", "a text is needed here", place, _UNSEEN)
        elif encoded:
            _try_decode(entry, place, out)
        elif len(entry.encode()) > MAX_BYTES:
            message = f"the value has more than {MAX_BYTES} bytes"
            out.error("bad-value", message, place, "a certificate or key is smaller")
    return out.errors == before


def _try_decode(entry: str, path: str, out: Findings) -> None:
    try:
        decode(entry)
    except InvalidInput as error:
        out.error(error.code, error.message, path, error.hint)


def _judge_data(value: JsonValue, path: str, out: Findings) -> bool:
    return _judge(value, path, out, encoded=True)


def _judge_strings(value: JsonValue, path: str, out: Findings) -> bool:
    return _judge(value, path, out, encoded=False)


FIELDS = {
    "type": Field(
        Choice(
            (TLS_TYPE, OPAQUE),
            dict.fromkeys(
                (
                    "kubernetes.io/service-account-token",
                    "kubernetes.io/dockercfg",
                    "kubernetes.io/dockerconfigjson",
                    "kubernetes.io/basic-auth",
                    "kubernetes.io/ssh-auth",
                    "bootstrap.kubernetes.io/token",
                    "helm.sh/release.v1",
                ),
                _LATER,
            ),
        ),
        note=f"{OPAQUE} if absent",
    ),
    "data": Field(Sealed("values in base64", _judge_data, _ENTRIES)),
    "stringData": Field(
        Sealed("values as they are", _judge_strings), note="the same entries; stronger than data"
    ),
    "immutable": Field(Only(False, "a Secret can always be replaced here: remove it")),
}
"""What stands beside `metadata`; a Secret has no spec."""


def _entries(document: JsonObject) -> dict[str, tuple[bytes, str]]:
    """Bytes and place of every entry, under its name in a TLS secret."""
    found: dict[str, tuple[bytes, str]] = {}
    for field in ("data", "stringData"):
        values = document.get(field, {})
        for name, entry in values.items() if isinstance(values, dict) else ():
            raw = decode(str(entry)) if field == "data" else str(entry).encode()
            found[name] = (raw, child(child("", field), name))
    return found


def check_entries(document: JsonObject, path: str, out: Findings) -> None:
    """A whole document: the entries are there, can be read, and belong together."""
    found = _entries(document)
    tls = document.get("type") == TLS_TYPE
    for short, full in _SAME.items():
        if short in found and (tls or full in found):
            out.error(
                "conflicting-fields",
                f"{short} cannot be used with {TLS_TYPE if tls else full}",
                path + found[short][1],
                f"write {full}" if tls else "keep one of them",
            )
    named = _renamed(found)
    for one, other in (("tls.key", "tls.crt"), ("tls.crt", "tls.key")):
        if other not in named and (one in named or tls):
            message = f"the entry {other} is missing"
            out.error("missing-field", message, path, f"{TLS_TYPE} has tls.crt and tls.key")
    if not named and not tls:
        out.error("missing-field", "there is no entry", path, f"one of: {', '.join(_ENTRIES)}")
    if out.errors:
        return
    _check_read(named, path, out)


def _renamed(found: dict[str, tuple[bytes, str]]) -> dict[str, tuple[bytes, str]]:
    return {_SAME.get(name, name): entry for name, entry in found.items()}


def _check_read(named: dict[str, tuple[bytes, str]], path: str, out: Findings) -> None:
    for name, read in (("tls.crt", _pair), ("ca.crt", _authorities)):
        if name not in named:
            continue
        try:
            read(named)
        except InvalidInput as error:
            at = "tls.key" if error.code == "bad-private-key" else name
            out.error(error.code, error.message, path + named[at][1], error.hint)
    if CLIENT_SECRET in named and not _VISIBLE.fullmatch(named[CLIENT_SECRET][0]):
        message = "the client's secret is not 8 to 512 visible ASCII characters"
        out.error("bad-value", message, path + named[CLIENT_SECRET][1], "no blank, no line end")


def _pair(named: dict[str, tuple[bytes, str]]) -> KeyPair:
    return parse_pair(named["tls.crt"][0], named["tls.key"][0])


def _authorities(named: dict[str, tuple[bytes, str]]) -> Authorities:
    return parse_authorities(named["ca.crt"][0])


RULES = (check_entries,)


def to_secret(document: JsonObject) -> Secret:
    """A checked document."""
    named = _renamed(_entries(document))
    return Secret(
        pair=_pair(named) if "tls.crt" in named else None,
        authorities=_authorities(named) if "ca.crt" in named else None,
        client_secret=ClientSecret(named[CLIENT_SECRET][0].decode("ascii"))
        if CLIENT_SECRET in named
        else None,
    )


def expired(resources: Iterable[Resource], now_s: float) -> Iterator[Diagnostic]:
    """An error for every Secret that is not valid at `now_s` (seconds since 1970)."""
    for one in resources:
        if not isinstance(one.spec, Secret):
            continue
        for message, hint in _out_of_time(one.spec, now_s):
            yield Diagnostic(
                Severity.ERROR,
                "expired-certificate",
                f"{one.key}: {message}",
                one.origin.file,
                one.origin.line(),
                hint=hint,
            )


def _out_of_time(secret: Secret, now_s: float) -> Iterator[tuple[str, str]]:
    pair, authorities = secret.pair, secret.authorities
    if pair is not None and now_s >= pair.not_after_s:
        yield f"a certificate expired at {_utc(pair.not_after_s)}", "renew it"
    if pair is not None and now_s < pair.not_before_s:
        start = _utc(pair.not_before_s)
        yield f"a certificate is valid only from {start}", "wait, or check the clock of this host"
    if authorities is not None and now_s >= authorities.not_after_s:
        yield f"every authority expired, the last at {_utc(authorities.not_after_s)}", "renew them"


def _utc(moment_s: int) -> str:
    return dt.datetime.fromtimestamp(moment_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
