"""What an agent says about itself: to `limen agent status`, and to the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from limen import __version__
from limen.adapters.runtime_dir import is_tmpfs
from limen.services.agent.node_identity import agent_versions

if TYPE_CHECKING:
    from limen.services.agent.agent import Agent
    from limen.services.agent.workload import Workload


def status_payload(agent: Agent) -> dict[str, Any]:
    """The message `Status` to the server (ARCHITECTURE, "Contracts between processes")."""
    return {
        "versions": agent_versions(agent.envoy_version),
        "instances": [
            {
                "instance": workload.spec.key,
                "ready": is_ready(workload),
                "envoy_version": agent.envoy_version,
                "isolation": workload.isolation.value,
                "outage_budget_s": int(_budget(workload)),
                "plaintext": workload.log.plaintext,
                "audit_dropped": workload.log.dropped,
            }
            for workload in agent.workloads.values()
        ],
    }


def is_ready(workload: Workload) -> bool:
    """Envoy runs, has its configuration, and the program listens."""
    return bool(workload.supervisor.pid) and workload.application_ready


def describe_agent(agent: Agent) -> dict[str, Any]:
    """Everything that `limen agent status` and `limen check` show. Holds no secret."""
    node = agent.node
    return {
        "mesh": agent.settings.mesh,
        "version": __version__,
        "envoy_version": agent.envoy_version,
        "node_id": node.node_id if node else "",
        "node_not_after_s": node.times()[1] if node else 0,
        "server": node.server if node else "",
        "server_epoch": node.server_epoch if node else "",
        "started_s": agent.started_s,
        "auto_stop": agent.settings.auto_stop,
        "runtime": str(agent.settings.paths.runtime),
        "state": str(agent.settings.paths.state),
        "runtime_is_tmpfs": is_tmpfs(agent.settings.paths.runtime),
        "audit_logs_dropped": agent.audit_dropped,
        "workloads": [describe_workload(w) for w in agent.workloads.values()],
    }


def describe_workload(workload: Workload) -> dict[str, Any]:
    """One workload as shown."""
    svid = workload.feed.current
    return {
        "instance": workload.spec.key,
        "spiffe_id": workload.registration.spiffe_id,
        "address": workload.spec.address,
        "port": workload.spec.port,
        "service_port": workload.spec.service_port,
        "protocol": workload.spec.protocol,
        "network_namespace": workload.spec.netns,
        "local_ports": dict(workload.spec.local_ports),
        "outbound_port": workload.outbound_port,
        "outbound_socket": str(workload.paths.outbound_socket),
        "isolation": workload.isolation.value,
        "ready": is_ready(workload),
        "application_listening": workload.application_ready,
        "envoy_pid": workload.supervisor.pid,
        "envoy_restarts": workload.supervisor.restarts,
        "decision_point": workload.point.pid,
        "decision_point_restarts": workload.point.restarts,
        "envoy_connected": workload.relay.envoy_connected,
        "server_connected": workload.server_connected,
        "serving": workload.supervisor.allowed,
        "certificate_not_after_s": svid.not_after_s if svid else None,
        "certificate_renew_at_s": svid.renew_at_s if svid else None,
        "certificate_left_s": svid.not_after_s - time.time() if svid else None,
        "outage_budget_s": _budget(workload),
        "clock_offset_s": workload.certifier.clock_offset_s,
        "audit_dropped": workload.log.dropped,
        "refusal": workload.refusal,
        "trouble": workload.trouble,
    }


def _budget(workload: Workload) -> float:
    svid = workload.feed.current
    return svid.outage_budget_s if svid else 0.0
