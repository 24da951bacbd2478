"""Hosts as both families write them: of listeners, of routes, and services of the mesh.

Source: istio/istio `pkg/config/validation/agent` ValidateWildcardDomain, `pkg/config/host`;
kubernetes-sigs/gateway-api `apis/v1/shared_types.go` Hostname and PreciseHostname.
"""

from __future__ import annotations

import re

from limen.core.dialects.document import show
from limen.core.dialects.schema import Text
from limen.core.model.gateway import ANY
from limen.core.model.names import MESH_DOMAIN, parse_name
from limen.core.model.route import ServiceRef
from limen.errors import InvalidInput

CLUSTER_DOMAIN = "svc.cluster.local"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LABELS = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NUMBERS = re.compile(r"[0-9.]+", re.ASCII)
_IPV4 = re.compile(
    r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
)
_HINT = "write a name like www.example.com, *.example.com, or * alone"


def _bad(text: str, what: str, hint: str = _HINT) -> InvalidInput:
    return InvalidInput(f"{show(text, 120)} {what}", code="bad-value", hint=hint)


def _check_wildcard(text: str, name: str) -> str:
    """The part behind `*.`. Raises InvalidInput (code `bad-wildcard`)."""
    rest = name.removeprefix("*.")
    if "*" in rest:
        raise InvalidInput(
            f"the * in {show(text, 120)} stands where it has no meaning",
            code="bad-wildcard",
            hint="write *.example.com, or * alone",
        )
    return rest


def _check_name(text: str) -> None:
    rest = _check_wildcard(text, text)
    if ":" in text or "/" in text:
        raise _bad(text, "is not a host", "write the name only, without scheme, port and path")
    if not _LABELS.fullmatch(rest) or len(text) > 253:
        raise _bad(text, "is not a host", f"{_HINT}; ASCII only (xn-- for others)")


def check_istio_host(text: str) -> None:
    """A host of a Gateway or VirtualService: with a dot, `*`, or an IPv4 address; any case."""
    folded = text.lower()
    if text == ANY or _IPV4.fullmatch(text):
        return
    _check_name(folded)
    if _NUMBERS.fullmatch(folded):
        raise _bad(text, "is not an IP address")
    if "." not in folded:
        raise _bad(
            text,
            "is a short name, which means a service inside the mesh and no host of a gateway",
            "write the name that clients call, with its domain",
        )


def check_server_host(text: str) -> None:
    """`HOST` or `NAMESPACE/HOST` of an Istio Gateway; the namespace may be `*` or `.`."""
    if "://" in text:
        raise _bad(text, "is not a host", "write the name only, without scheme, port and path")
    namespace, slash, host = text.rpartition("/")
    if slash and namespace not in ("*", "."):
        if not namespace:
            raise _bad(text, "has no namespace before the /", "write NAMESPACE/HOST, or HOST")
        parse_name(namespace, "namespace")
    check_istio_host(host)


def check_hostname(text: str) -> None:
    """A Hostname of the Gateway API: lower case, no address; `*.` may stand before it."""
    if text == ANY:
        raise _bad(text, "is not a hostname", "leave the field out to mean every host")
    check_precise_hostname(text.removeprefix("*."), text)


def check_precise_hostname(text: str, shown: str = "") -> None:
    """A hostname of the Gateway API without wildcard."""
    shown = shown or text
    if text != text.lower():
        raise _bad(shown, "has upper-case letters", f"write {shown.lower()[:120]}")
    _check_name(text)
    if "*" in text:
        raise _bad(shown, "may not have a wildcard", "name the host")
    if _NUMBERS.fullmatch(text):
        raise _bad(shown, "is an address, not a hostname", "write a name")


def check_authority(text: str) -> None:
    """A host, with a port if wanted, that is put into a Host or Location header."""
    host, colon, port = text.partition(":")
    good = _LABELS.fullmatch(host.lower()) and len(host) <= 253
    if colon:
        good = good and re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) <= 65535
    if not good:
        raise _bad(text, "is not a host", "write HOST, or HOST:PORT")


def check_server_name(text: str) -> None:
    """A name in a TLS client hello: `*`, `*.suffix` or exact, no address."""
    if text == ANY:
        return
    _check_name(text.lower())
    if _NUMBERS.fullmatch(text):
        raise _bad(text, "is an address; clients send no server name for one", "write a name")


def parse_service(text: str, namespace: str) -> ServiceRef:
    """The workload that a destination's host in a document of `namespace` means.

    `NAME`, `NAME.NAMESPACE.svc.cluster.local`, `NAME.NAMESPACE.mesh` or `NAME.mesh`. Raises
    InvalidInput (code `bad-value` or `invalid-name`) for others: they lie outside the mesh.
    """
    name, own = text.lower().removesuffix("."), namespace
    if "*" in name:
        raise _bad(text, "has a wildcard; a destination is one service", "name the service")
    for suffix in (f".{CLUSTER_DOMAIN}", f".{MESH_DOMAIN}"):
        if name.endswith(suffix):
            name, _, own = name.removesuffix(suffix).rpartition(".")
            if not name and suffix == f".{MESH_DOMAIN}":
                name, own = own, namespace
            break
    else:
        if "." in name:
            raise _bad(
                text,
                "is not a service of this mesh; hosts outside it are a later version",
                f"write NAME, or NAME.NAMESPACE.{CLUSTER_DOMAIN}",
            )
    parse_name(own, "namespace")
    return ServiceRef(own, parse_name(name, "service"))


def _check_service(text: str) -> None:
    parse_service(text, "default")


ISTIO_HOST = Text("a host", max_length=253, parse=check_istio_host)
SERVER_HOST = Text("a host", max_length=510, parse=check_server_host)
HOSTNAME = Text("a hostname", max_length=253, parse=check_hostname)
PRECISE_HOSTNAME = Text("a hostname", max_length=253, parse=check_precise_hostname)
AUTHORITY = Text("a host", max_length=260, parse=check_authority)
SERVER_NAME = Text("a server name", max_length=253, parse=check_server_name)
SERVICE_HOST = Text("a service's host", max_length=510, parse=_check_service)
