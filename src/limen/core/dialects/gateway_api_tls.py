"""TLS of the Gateway API's listeners: schema and conversion.

Source: kubernetes-sigs/gateway-api `apis/v1/gateway_types.go` ListenerTLSConfig,
FrontendTLSValidation; istio/istio `pilot/pkg/config/kube/gateway` buildTLS, which reads the modes
that the API has no word for from the option `gateway.istio.io/tls-terminate-mode`.
"""

from __future__ import annotations

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text, whole
from limen.core.dialects.gateway_api_references import CREDENTIAL, PORT, to_secret_ref
from limen.core.dialects.schema import Choice, Field, ListOf, Refused, Struct
from limen.core.model.gateway import ClientCheck, ServerTls, ServerTlsMode, TlsVersion

TERMINATE_MODE = "gateway.istio.io/tls-terminate-mode"
MINIMUM_VERSION = "limen.dev/minimum-tls-version"
_MODES = tuple(mode.value for mode in ServerTlsMode if mode is not ServerTlsMode.PASSTHROUGH)
_ASKING = (ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL)
_FALLBACK = "clients without a valid certificate would pass as if they had one: use AllowValidOnly"

LISTENER_TLS = Struct(
    {
        "mode": Field(Choice(("Terminate", "Passthrough")), note="Terminate if absent"),
        "certificateRefs": Field(
            ListOf(CREDENTIAL, 2), note="a Secret; two: one with an RSA key, one with an EC key"
        ),
        "options": Field(
            Struct(
                {
                    TERMINATE_MODE: Field(Choice(_MODES), note="SIMPLE if absent"),
                    MINIMUM_VERSION: Field(Choice(("1.2", "1.3")), note="1.2 if absent, in quotes"),
                }
            )
        ),
    }
)
_VALIDATION = Struct(
    {
        "validation": Field(
            Struct(
                {
                    "caCertificateRefs": Field(
                        ListOf(CREDENTIAL, 8), required=True, note="Secrets with ca.crt; all count"
                    ),
                    "mode": Field(
                        Choice(("AllowValidOnly",), {"AllowInsecureFallback": _FALLBACK}),
                        note="AllowValidOnly if absent",
                    ),
                }
            ),
            note="clients must show a certificate of these authorities",
        )
    }
)


def _check_ports(frontend: JsonObject, path: str, out: Findings) -> None:
    seen: set[int] = set()
    for index, entry in enumerate(objects(frontend, "perPort")):
        port = whole(entry, "port")
        if port in seen:
            place = child(child(child(path, "perPort"), index), "port")
            out.error("duplicate-name", f"port {port} stands twice", place, "keep one of them")
        seen.add(port)


GATEWAY_TLS = Struct(
    {
        "frontend": Field(
            Struct(
                {
                    "default": Field(_VALIDATION, required=True, note="of every HTTPS listener"),
                    "perPort": Field(
                        ListOf(
                            Struct(
                                {
                                    "port": Field(PORT, required=True),
                                    "tls": Field(_VALIDATION, required=True),
                                }
                            ),
                            64,
                        ),
                        note="instead of default, for this port",
                    ),
                },
                (_check_ports,),
            )
        ),
        "backend": Field(Refused("hops in the mesh use the gateway's own identity: leave it out")),
    }
)


def frontends(spec: JsonObject) -> dict[int, JsonObject]:
    """The checked client validation by port; 0 is the one of every other port."""
    frontend = obj(obj(spec, "tls"), "frontend")
    found = {0: obj(obj(frontend, "default"), "validation")}
    for entry in objects(frontend, "perPort"):
        found[whole(entry, "port")] = obj(obj(entry, "tls"), "validation")
    return found


def check_https(listener: JsonObject, validation: JsonObject, path: str, out: Findings) -> None:
    """TLS of a checked HTTPS listener: certificates as its mode needs them."""
    tls, place = obj(listener, "tls"), child(path, "tls")
    if tls.get("mode") == "Passthrough":
        message = "an HTTPS listener ends TLS itself"
        hint = "write protocol: TLS, with a TLSRoute"
        out.error("conflicting-fields", message, child(place, "mode"), hint)
        return
    options = child(place, "options")
    chosen = text(obj(tls, "options"), TERMINATE_MODE)
    if chosen and validation:
        out.error(
            "conflicting-fields",
            "the option and spec.tls.frontend both say how clients are judged",
            child(options, TERMINATE_MODE),
            "keep one of them",
        )
    if chosen == ServerTlsMode.ISTIO_MUTUAL.value:
        if "certificateRefs" in tls:
            message = f"certificateRefs has no meaning with {chosen}"
            place = child(place, "certificateRefs")
            out.error("conflicting-fields", message, place, "remove it")
    elif "certificateRefs" not in tls:
        message = f"{chosen or 'Terminate'} needs the Secret with the server's certificate"
        out.error("missing-field", message, place, "write certificateRefs: with its name")


def check_passthrough(listener: JsonObject, path: str, out: Findings) -> None:
    """TLS of a checked TLS listener: never ended here."""
    tls, place = obj(listener, "tls"), child(path, "tls")
    if tls.get("mode", "Terminate") != "Passthrough":
        out.error(
            "refused-value",
            "ending TLS around something other than HTTP is not supported",
            child(place, "mode") if "mode" in tls else place,
            "write protocol: HTTPS, or mode: Passthrough",
        )
    for name in ("certificateRefs", "options"):
        if name in tls and tls.get("mode") == "Passthrough":
            message = f"{show(name)[1:-1]} has no meaning with Passthrough"
            out.error("conflicting-fields", message, child(place, name), "remove it")


def to_tls(namespace: str, listener: JsonObject, validation: JsonObject) -> ServerTls:
    """TLS of a checked listener of `namespace` that is not plain HTTP."""
    tls = obj(listener, "tls")
    if tls.get("mode") == "Passthrough":
        return ServerTls(ServerTlsMode.PASSTHROUGH)
    default = ServerTlsMode.MUTUAL if validation else ServerTlsMode.SIMPLE
    mode = ServerTlsMode(text(obj(tls, "options"), TERMINATE_MODE, default.value))
    authorities = tuple(
        to_secret_ref(namespace, ref) for ref in objects(validation, "caCertificateRefs")
    )
    newest = text(obj(tls, "options"), MINIMUM_VERSION) == "1.3"
    return ServerTls(
        mode=mode,
        certificates=tuple(to_secret_ref(namespace, r) for r in objects(tls, "certificateRefs")),
        client=ClientCheck(authorities) if mode in _ASKING else None,
        minimum=TlsVersion.V1_3 if newest else TlsVersion.V1_2,
    )
