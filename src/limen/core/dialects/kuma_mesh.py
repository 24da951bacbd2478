"""Kuma's Mesh: schema and conversion.

Source: kuma `api/mesh/v1alpha1/mesh.proto` and its generated JSON schema (2.x), page "Mutual TLS".
mTLS is on unless the document turns it off in so many words (`mtls.enabledBackend: ""`): Kuma's
default is off.
"""

from __future__ import annotations

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, objects, text
from limen.core.dialects.schema import (
    Choice,
    Duration,
    Field,
    ListOf,
    Only,
    Refused,
    ServerMade,
    Struct,
    Text,
    Variants,
    Whole,
)
from limen.core.model.mesh import (
    DEFAULT_CA_LIFETIME_S,
    DEFAULT_LIFETIME_S,
    BuiltinAuthority,
    Mesh,
)

DAY_S = 86400
MIN_LEAF_S, MAX_LEAF_S = 10, 365 * DAY_S
MIN_CA_S, MAX_CA_S = 3600, 100 * 365 * DAY_S
_LATER_BACKEND = "only the builtin authority exists so far; write type: builtin"

_BUILTIN = Struct(
    {
        "name": Field(Text("a backend's name", max_length=253), required=True),
        "type": Field(Text(), required=True),
        "mode": Field(
            Choice(
                ("STRICT",),
                {"PERMISSIVE": "plaintext beside mTLS is a later version; remove the field"},
            )
        ),
        "dpCert": Field(
            Struct(
                {
                    "rotation": Field(
                        Struct(
                            {
                                "expiration": Field(
                                    Duration(MIN_LEAF_S, MAX_LEAF_S),
                                    note="life of a workload's certificate, 24h if absent",
                                )
                            }
                        )
                    ),
                    "requestTimeout": Field(
                        Duration(0.1, 3600), note="how long a signature may take, 10s if absent"
                    ),
                }
            )
        ),
        "conf": Field(
            Struct(
                {
                    "caCert": Field(
                        Struct(
                            {
                                "RSAbits": Field(
                                    Whole(2048, 8192),
                                    note="root and intermediate; P-256 if absent",
                                ),
                                "expiration": Field(
                                    Duration(MIN_CA_S, MAX_CA_S), note="10y if absent"
                                ),
                            }
                        )
                    )
                }
            )
        ),
        "rootChain": Field(Refused("the builtin authority answers at once: remove it")),
    }
)


def _check_mtls(mtls: JsonObject, path: str, out: Findings) -> None:
    backends = objects(mtls, "backends")
    names = [text(backend, "name") for backend in backends]
    enabled = mtls.get("enabledBackend")
    for index, name in enumerate(names):
        if name in names[:index]:
            place = child(child(path, "backends"), index)
            out.error("duplicate-name", f"two backends are called {show(name)}", place)
    if len(names) > 1:
        out.error(
            "refused-value",
            "more than one backend is not supported",
            child(path, "backends"),
            "keep the enabled one; roots are rotated without a second backend",
        )
    if enabled is None:
        out.error(
            "missing-field",
            "the field enabledBackend is missing",
            path,
            'name the backend; to turn mutual TLS off, write enabledBackend: ""',
        )
    elif enabled not in ("", *names):
        known = (
            f"backends here: {', '.join(map(show, names))}" if names else "add it under backends"
        )
        out.error(
            "dangling-reference",
            f"there is no backend {show(enabled)}",
            child(path, "enabledBackend"),
            known,
        )


def _check_lifetimes(backend: JsonObject, path: str, out: Findings) -> None:
    authority = _authority(backend)
    if authority.leaf_lifetime_s >= authority.ca_lifetime_s:
        out.error(
            "out-of-range",
            "workload certificates would live as long as the authority that signs them",
            path,
            "make dpCert.rotation.expiration shorter than conf.caCert.expiration",
        )


SPEC = Struct(
    {
        "mtls": Field(
            Struct(
                {
                    "enabledBackend": Field(
                        Text("a backend's name", min_length=0, max_length=253),
                        note='required; "" turns mutual TLS off',
                    ),
                    "backends": Field(
                        ListOf(
                            Variants(
                                "type",
                                {"builtin": Struct(_BUILTIN.fields, (_check_lifetimes,))},
                                {
                                    "provided": _LATER_BACKEND,
                                    "vault": _LATER_BACKEND,
                                    "acmpca": _LATER_BACKEND,
                                    "certmanager": _LATER_BACKEND,
                                },
                            ),
                            maximum=20,
                        )
                    ),
                    "skipValidation": Field(
                        Only(False, "there is nothing to skip for a builtin authority: remove it")
                    ),
                },
                (_check_mtls,),
            ),
            note="mutual TLS is on if absent (Kuma: off)",
        ),
        "tracing": Field(Refused("tracing is a later version: remove it")),
        "logging": Field(Refused("access logs are a later version: remove it")),
        "metrics": Field(Refused("per-mesh metrics are a later version: remove it")),
        "networking": Field(
            Struct(
                {
                    "outbound": Field(
                        Struct(
                            {
                                "passthrough": Field(
                                    Only(
                                        False,
                                        "names outside the mesh are always refused; "
                                        "write false, or remove it",
                                    )
                                )
                            }
                        )
                    )
                }
            )
        ),
        "routing": Field(Refused("zones, egress and locality are a later version: remove it")),
        "constraints": Field(
            Refused("tokens say which workloads a node may run (limen token create): remove it")
        ),
        "skipCreatingInitialPolicies": Field(
            ServerMade(), note="no effect: Limen creates no initial policies"
        ),
        "meshServices": Field(Refused("every service has a name of its own already: remove it")),
    }
)


def to_mesh(name: str, spec: JsonObject) -> Mesh:
    """A checked spec as a Mesh."""
    mtls = obj(spec, "mtls")
    if "enabledBackend" not in mtls:
        return Mesh(name)
    enabled = text(mtls, "enabledBackend")
    chosen = [b for b in objects(mtls, "backends") if enabled in ("", text(b, "name"))]
    authority = _authority(chosen[0]) if chosen else BuiltinAuthority()
    return Mesh(name, mtls_enabled=enabled != "", authority=authority)


def _authority(backend: JsonObject) -> BuiltinAuthority:
    certificate = obj(backend, "dpCert")
    ca = obj(obj(backend, "conf"), "caCert")
    bits = ca.get("RSAbits")
    return BuiltinAuthority(
        name=text(backend, "name"),
        leaf_lifetime_s=int(_seconds(obj(certificate, "rotation"), DEFAULT_LIFETIME_S)),
        ca_rsa_bits=bits if isinstance(bits, int) else None,
        ca_lifetime_s=int(_seconds(ca, DEFAULT_CA_LIFETIME_S)),
        request_timeout_s=_seconds(certificate, 10.0, "requestTimeout"),
    )


def _seconds(value: JsonObject, default: float, name: str = "expiration") -> float:
    return parse_duration(text(value, name)) if name in value else default
