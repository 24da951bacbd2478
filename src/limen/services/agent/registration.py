"""The server's answer to Register: who the workload is, and the mesh's settings for its agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.core.model.mesh import Isolation, WhenStale
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.services.agent.spec import WorkloadSpec


@dataclass(frozen=True, slots=True)
class Registration:
    """`max_staleness_s` None: a cut-off agent serves for as long as its certificate lives.

    `request_timeout_s`: how long a signature may take (the mesh's `dpCert.requestTimeout`).
    `policies`: the server has policies for a decision point.
    """

    instance: str
    spiffe_id: str
    dns_names: tuple[str, ...]
    trust_domain: str
    max_staleness_s: float | None = None
    refuse_when_stale: bool = False
    epoch: str = ""
    control_bundle_pem: str = ""
    request_timeout_s: float = 10.0
    policies: bool = False


def parse_registration(answer: Mapping[str, Any]) -> Registration:
    """From the server's answer, or from our own sealed file. Raises InvalidInput."""
    try:
        settings = answer.get("settings") or answer
        staleness = settings.get("max_staleness_s")
        when = settings.get("when_stale")
        refuse = answer.get("refuse_when_stale") is True or when == WhenStale.REFUSE.value
        return Registration(
            instance=str(answer["instance"]),
            spiffe_id=str(answer["spiffe_id"]),
            dns_names=tuple(map(str, answer["dns_names"])),
            trust_domain=str(answer["trust_domain"]),
            max_staleness_s=None if staleness is None else float(staleness),
            refuse_when_stale=refuse,
            epoch=str(answer.get("epoch") or ""),
            control_bundle_pem=str(answer.get("control_bundle_pem") or ""),
            request_timeout_s=float(answer.get("request_timeout_s") or 10.0),
            policies=answer.get("policies") is True,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"the server's answer to Register cannot be read: {error}",
            code="bad-answer",
            hint="are server and agent of neighbouring versions?",
        ) from error


def register_payload(
    spec: WorkloadSpec,
    isolation: Isolation,
    outbound_port: int,
    outbound_socket: str,
    pdp_socket: str = "",
) -> dict[str, Any]:
    """What the agent says of a workload: places and protocol, never identity or tags."""
    probes = []
    if spec.probe_path:
        probes = [
            {"path": spec.probe_path, "inbound_port": spec.port, "inbound_path": spec.probe_path}
        ]
    return {
        "service": spec.service,
        "namespace": spec.namespace,
        "instance": spec.instance,
        "address": spec.address,
        "gateway": spec.gateway,
        "inbounds": []
        if spec.gateway
        else [
            {
                "port": spec.port,
                "service_port": spec.service_port,
                "protocol": spec.protocol,
                "name": "",
            }
        ],
        "probe_port": spec.probe_port,
        "probes": probes,
        "isolation": isolation.value,
        "reports_ready": True,
        "local": {
            "outbound_port": outbound_port,
            "outbound_socket": outbound_socket,
            "pdp_socket": pdp_socket,
            "ports": [{"port": port, "service": service} for port, service in spec.local_ports],
        },
    }
