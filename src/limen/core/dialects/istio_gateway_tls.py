"""TLS of a server in Istio's Gateway: schema, what goes with which mode, conversion.

Source: istio/api `networking/v1/gateway.proto` ServerTLSSettings, istio/istio
`pkg/config/validation` validateTLSOptions.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import text, texts
from limen.core.dialects.schema import Choice, Field, Flag, ListOf, Refused, Struct, Text
from limen.core.model.gateway import ClientCheck, SecretRef, ServerTls, ServerTlsMode, TlsVersion
from limen.core.model.names import parse_name
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

CA_SUFFIX = "-cacert"
"""A secret of this name beside the server's own one holds the authorities of clients (Istio)."""

_CIPHERS = tuple(
    f"ECDHE-{key}-{suite}"
    for key in ("ECDSA", "RSA")
    for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
)
_WEAK = "without forward secrecy and authenticated encryption nothing is served: leave it out"
_WEAK_CIPHERS = (
    *(f"ECDHE-{key}-AES{bits}-SHA" for key in ("ECDSA", "RSA") for bits in (128, 256)),
    *(f"AES{bits}-{suite}" for bits in (128, 256) for suite in ("SHA", "SHA256", "SHA384")),
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "DES-CBC3-SHA",
)
_FILE = "files of a proxy are not read: put them into a Secret and name it in credentialName"
_OLD_TLS = dict.fromkeys(("TLSV1_0", "TLSV1_1"), "TLS before 1.2 is not served")
_VERSIONS = Choice(("TLS_AUTO", "TLSV1_2", "TLSV1_3"), _OLD_TLS)
_OWN = ("credentialName", "credentialNames")
_CLIENT = (
    "caCertCredentialName",
    "subjectAltNames",
    "verifyCertificateSpki",
    "verifyCertificateHash",
)
_ENDED = (*_OWN, *_CLIENT, "minProtocolVersion", "maxProtocolVersion", "cipherSuites")
_HASH = re.compile(r"[0-9A-Fa-f]{64}|[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){31}", re.ASCII)


def _check_spki(value: str) -> None:
    try:
        good = len(base64.b64decode(value, validate=True)) == 32
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise InvalidInput(
            f"{show(value)} is not a SHA-256 in base64",
            code="bad-value",
            hint="hash the certificate's SubjectPublicKeyInfo; 32 bytes make 44 characters",
        )


def _check_credential(value: str) -> None:
    if "/" in value:
        raise InvalidInput(
            f"{show(value)} names more than a Secret",
            code="refused-value",
            hint="write its name only: it lies in the namespace of the gateway's workload",
        )
    parse_name(value, "the name of a Secret")


def _check_san(value: str) -> None:
    if not re.fullmatch(r"[!-~]+", value) or "*" in value:
        raise InvalidInput(
            f"{show(value)} is not an alternative name",
            code="bad-value",
            hint="write a DNS name, address, e-mail or URI of the client's certificate in full",
        )


_CREDENTIAL = Text("the name of a Secret", max_length=253, parse=_check_credential)


def _refuse(names: Iterable[str], tls: JsonObject, path: str, why: str, out: Findings) -> None:
    for name in names:
        if name in tls:
            out.error("conflicting-fields", f"{name} {why}", child(path, name), "remove it")


def check_ended(tls: JsonObject, path: str, out: Findings) -> None:
    """TLS of a server that is not plaintext: a mode, and only what that mode needs."""
    if "mode" not in tls:
        out.error(
            "missing-field",
            "the field mode is missing, which Istio reads as PASSTHROUGH",
            path,
            f"one of: {', '.join(mode.value for mode in ServerTlsMode)}",
        )
        return
    mode = ServerTlsMode(tls["mode"])
    if mode in (ServerTlsMode.PASSTHROUGH, ServerTlsMode.ISTIO_MUTUAL):
        _refuse(_ENDED, tls, path, f"has no meaning with {mode.value}", out)
    else:
        _check_certificates(tls, mode, path, out)
    if mode is ServerTlsMode.SIMPLE:
        _refuse(_CLIENT, tls, path, "has no meaning with SIMPLE: no client is asked", out)
    if (text(tls, "minProtocolVersion"), text(tls, "maxProtocolVersion")) == ("TLSV1_3", "TLSV1_2"):
        out.error(
            "conflicting-fields",
            "no version of TLS is left between the two",
            child(path, "maxProtocolVersion"),
            "remove it",
        )
    if tls.get("httpsRedirect") is True:
        out.warn(
            "no-effect",
            "httpsRedirect does nothing here: every request comes by TLS",
            child(path, "httpsRedirect"),
            "set it on the server of plain HTTP",
        )


def _check_certificates(tls: JsonObject, mode: ServerTlsMode, path: str, out: Findings) -> None:
    given = [name for name in _OWN if name in tls]
    if not given:
        message = f"{mode.value} needs the Secret with the server's certificate"
        out.error("missing-field", message, path, "write credentialName: NAME")
    elif len(given) > 1:
        message = "credentialName and credentialNames cannot be used together"
        out.error("conflicting-fields", message, child(path, given[1]), "keep one of them")


def check_plain(tls: JsonObject, path: str, out: Findings) -> None:
    """TLS of a server of plain HTTP: a redirect and nothing else."""
    _refuse(_ENDED, tls, path, "has no meaning for a server of plain HTTP", out)
    if tls.get("mode", "PASSTHROUGH") != "PASSTHROUGH":
        out.error(
            "conflicting-fields",
            f"a server of plain HTTP has no TLS mode {tls['mode']}",
            child(path, "mode"),
            "write protocol: HTTPS, or keep httpsRedirect only",
        )


TLS = Struct(
    {
        "mode": Field(
            Choice(
                tuple(mode.value for mode in ServerTlsMode),
                {"AUTO_PASSTHROUGH": "routing by names of clusters is not supported"},
            ),
            note="needed but for plain HTTP",
        ),
        "httpsRedirect": Field(Flag(), note="of plain HTTP: 301 to https"),
        "credentialName": Field(
            _CREDENTIAL, note="a Secret in the namespace of the gateway's workload"
        ),
        "credentialNames": Field(
            ListOf(_CREDENTIAL, maximum=2), note="two: one with an RSA key, one with an EC key"
        ),
        "caCertCredentialName": Field(
            _CREDENTIAL,
            note=f"authorities of clients; else in the Secret itself, or in NAME{CA_SUFFIX}",
        ),
        "subjectAltNames": Field(
            ListOf(Text("a name", parse=_check_san), 100), note="of the client: any of them"
        ),
        "verifyCertificateSpki": Field(ListOf(Text("a hash", parse=_check_spki), 100)),
        "verifyCertificateHash": Field(
            ListOf(Text("a SHA-256 in hexadecimal", _HASH, hint="64 digits, colons allowed"), 100)
        ),
        "minProtocolVersion": Field(_VERSIONS, note="1.2 if absent"),
        "maxProtocolVersion": Field(_VERSIONS, note="1.3 if absent"),
        "cipherSuites": Field(
            ListOf(Choice(_CIPHERS, dict.fromkeys(_WEAK_CIPHERS, _WEAK)), 20),
            note="of TLS 1.2; the proxy's own if absent",
        ),
        "serverCertificate": Field(Refused(_FILE)),
        "privateKey": Field(Refused(_FILE)),
        "caCertificates": Field(Refused(_FILE)),
        "tlsCertificates": Field(Refused(_FILE)),
        "caCrl": Field(Refused("lists of revoked certificates are a later version")),
    }
)


def to_tls(tls: JsonObject) -> ServerTls:
    """A checked value of a server that is not plaintext."""
    mode = ServerTlsMode(text(tls, "mode"))
    names = texts(tls, "credentialNames") or tuple(filter(None, [text(tls, "credentialName")]))
    asked = mode in (ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL)
    return ServerTls(
        mode=mode,
        certificates=tuple(SecretRef("", name) for name in names),
        client=_to_client(tls) if asked else None,
        minimum=_to_version(tls, "minProtocolVersion", TlsVersion.V1_2),
        maximum=_to_version(tls, "maxProtocolVersion", TlsVersion.V1_3),
        ciphers=texts(tls, "cipherSuites"),
    )


def _to_client(tls: JsonObject) -> ClientCheck:
    authority = text(tls, "caCertCredentialName")
    return ClientCheck(
        authorities=(SecretRef("", authority),) if authority else (),
        names=texts(tls, "subjectAltNames"),
        spki_sha256=texts(tls, "verifyCertificateSpki"),
        certificate_sha256=tuple(
            value.replace(":", "").lower() for value in texts(tls, "verifyCertificateHash")
        ),
    )


def _to_version(tls: JsonObject, field: str, default: TlsVersion) -> TlsVersion:
    value = text(tls, field, "TLS_AUTO")
    return default if value == "TLS_AUTO" else TlsVersion(value)
