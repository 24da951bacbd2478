"""Istio's PeerAuthentication: schema and conversion.

Source: istio/api `security/v1/peer_authentication.proto`, istio/istio `pkg/config/validation`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child
from limen.core.dialects.fields import obj, text
from limen.core.dialects.istio import SELECTOR_ONLY, annotations_rule, to_scope
from limen.core.dialects.metadata import parse_timestamp
from limen.core.dialects.schema import Choice, Field, MapOf, Struct, Text
from limen.core.model.peer_authentication import MtlsMode, PeerAuthentication
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.dialects.document import JsonValue

RULES = (annotations_rule(frozenset()),)


def _check_port(value: str) -> None:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", value) or int(value) > 65535:
        raise InvalidInput(
            f"{value[:20]!a} is not a port", code="bad-value", hint="write a number, 1 to 65535"
        )


def _check_spec(spec: JsonObject, path: str, out: Findings) -> None:
    if "portLevelMtls" in spec and "selector" not in spec:
        out.error(
            "missing-field",
            "portLevelMtls needs a selector beside it",
            child(path, "portLevelMtls"),
            "choose the workload whose ports they are",
        )


_MTLS = Struct(
    {
        "mode": Field(
            Choice(tuple(mode.value for mode in MtlsMode)),
            note="UNSET if absent: as the namespace says, then the mesh, then STRICT",
        )
    }
)
SPEC = Struct(
    {
        **SELECTOR_ONLY,
        "mtls": Field(_MTLS, note="as UNSET if absent"),
        "portLevelMtls": Field(
            MapOf(Text("a port", parse=_check_port), _MTLS),
            note="by the workload's own port; only with a selector",
        ),
    },
    (_check_spec,),
)


def to_peer_authentication(
    namespace: str, metadata: JsonObject, spec: JsonObject
) -> PeerAuthentication:
    """A checked document of `namespace`."""
    ports = obj(spec, "portLevelMtls")
    return PeerAuthentication(
        scope=to_scope(namespace, spec),
        mode=_mode(obj(spec, "mtls")),
        port_modes=tuple(sorted((int(port), _mode(value)) for port, value in ports.items())),
        created=parse_timestamp(text(metadata, "creationTimestamp")),
    )


def _mode(value: JsonValue) -> MtlsMode:
    if not isinstance(value, dict):
        raise TypeError(value)
    return MtlsMode(text(value, "mode", MtlsMode.UNSET.value))
