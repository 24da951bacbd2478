"""The checks of a running installation: facts in, findings out. Pure but for file modes.

Each check says ok, warn or fail, what was found, and how to mend it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limen import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Facts = Mapping[str, Any]

_CLOCK_WARN_S = 5.0
_CLOCK_FAIL_S = 30.0
_SOON_S = 3600.0
_GIVEN_SOON_S = 14 * 86400.0


class Level(Enum):
    """How good a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check. `hint` says how to mend it, "" when there is nothing to mend."""

    check: str
    level: Level
    found: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was asked of the outside. None: it could not be asked; `*_error` says why.

    `agent` is `describe_agent`; `server` the server's `/v1/status`; `audit` its `/v1/audit/verify`.
    """

    agent: Facts | None
    agent_error: str = ""
    server: Facts | None = None
    server_error: str = ""
    audit: Facts | None = None
    audit_error: str = ""


def run_checks(observed: Observed) -> tuple[Finding, ...]:
    """Every check, in the order in which a newcomer mends things."""
    return tuple(check(observed) for check in CHECKS)


def check_agent(observed: Observed) -> Finding:
    """Whether there is an agent, with an Envoy that may be used."""
    if observed.agent is None:
        return Finding(
            "agent and Envoy",
            Level.FAIL,
            observed.agent_error or "no agent answers",
            "start one with `limen agent run` or `limen run`; name another with --mesh, --runtime",
        )
    envoy = observed.agent["envoy_version"]
    return Finding("agent and Envoy", Level.OK, f"agent runs, Envoy {envoy}")


def check_server(observed: Observed) -> Finding:
    """Whether the workloads' streams reach the server."""
    workloads = _workloads(observed)
    away = [w["instance"] for w in workloads if not w["server_connected"]]
    if away:
        budget = min(w["certificate_left_s"] or 0 for w in workloads)
        return Finding(
            "server",
            Level.FAIL,
            f"{len(away)} of {len(workloads)} workloads have no stream: {', '.join(away[:3])}",
            f"is the server up and its node port open? traffic goes on for {budget:.0f} s at most",
        )
    if observed.server is None and observed.server_error:
        return Finding(
            "server",
            Level.WARN,
            observed.server_error,
            "pass --config with this server's client file",
        )
    return Finding("server", Level.OK, "reachable")


def check_certificates(observed: Observed) -> Finding:
    """Whether certificates are valid, and renewed in time."""
    if observed.agent is None:
        return _unknown("certificates")
    workloads = _workloads(observed)
    expired = [w["instance"] for w in workloads if (w["certificate_left_s"] or 0) <= 0]
    if expired:
        return Finding(
            "certificates",
            Level.FAIL,
            f"no valid certificate: {', '.join(expired[:3])}",
            "see `limen agent status`: the column trouble says why none was issued",
        )
    late = [w["instance"] for w in workloads if _overdue(w)]
    if late:
        return Finding(
            "certificates",
            Level.WARN,
            f"renewal is overdue: {', '.join(late[:3])}",
            "the server refuses or is away; see `limen agent status`",
        )
    return Finding("certificates", Level.OK, f"{len(workloads)} valid, renewed in time")


def _overdue(workload: Facts) -> bool:
    life = workload["certificate_not_after_s"] - workload["certificate_renew_at_s"]
    return bool(workload["certificate_left_s"] < 0.9 * life)


def check_budget(observed: Observed) -> Finding:
    """How long the server may be away."""
    if observed.agent is None:
        return _unknown("outage budget")
    workloads = _workloads(observed)
    if not workloads:
        return Finding("outage budget", Level.OK, "no workloads")
    least = min(w["outage_budget_s"] for w in workloads)
    level = Level.OK if least >= _SOON_S else Level.WARN
    hint = "" if level is Level.OK else "lengthen dpCert.rotation.expiration in the Mesh"
    return Finding("outage budget", level, f"the server may be away for {least:.0f} s", hint)


def check_clock(observed: Observed) -> Finding:
    """Whether host and server agree on the time, on which certificates depend."""
    if observed.agent is None:
        return _unknown("clocks")
    measured = [
        w["clock_offset_s"] for w in _workloads(observed) if w["clock_offset_s"] is not None
    ]
    if not measured:
        return Finding("clocks", Level.OK, "compared when the next certificate is issued")
    offset = max(measured, key=abs)
    level = Level.OK if abs(offset) <= _CLOCK_WARN_S else Level.WARN
    level = Level.FAIL if abs(offset) > _CLOCK_FAIL_S else level
    hint = "" if level is Level.OK else "run a time service (chrony, systemd-timesyncd) on both"
    return Finding("clocks", level, f"the server is {offset:+.1f} s apart", hint)


def check_sockets(observed: Observed) -> Finding:
    """Whether only those may use the sockets who should."""
    if observed.agent is None:
        return _unknown("socket modes")
    runtime, state = Path(observed.agent["runtime"]), Path(observed.agent["state"])
    wrong = [
        str(path)
        for path in (runtime / "agent.sock", state, state / "node.json", state / "seal.key")
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    wrong += [str(p) for p in runtime.glob("w/*/[po]") if stat.S_IMODE(p.stat().st_mode) & 0o077]
    if wrong:
        return Finding(
            "socket modes",
            Level.FAIL,
            f"others may open {', '.join(wrong[:3])}",
            "chmod go-rwx them, and find out who changed them",
        )
    return Finding("socket modes", Level.OK, "private to their owners")


def check_versions(observed: Observed) -> Finding:
    """Whether command, agent and server are of neighbouring versions."""
    have = {"limen": __version__}
    if observed.agent is not None:
        have["agent"] = str(observed.agent["version"])
    if observed.server is not None and observed.server.get("version"):
        have["server"] = str(observed.server["version"])
    shown = ", ".join(f"{part} {version}" for part, version in have.items())
    minors = {tuple(map(int, v.split(".")[:2])) for v in have.values()}
    if max(minors)[0] != min(minors)[0] or max(minors)[1] - min(minors)[1] > 1:
        return Finding(
            "versions", Level.FAIL, shown, "upgrade the oldest: one version apart is supported"
        )
    return Finding("versions", Level.OK, shown)


def check_proxies(observed: Observed) -> Finding:
    """Whether each workload has an Envoy that took its configuration, and a program behind it."""
    if observed.agent is None:
        return _unknown("proxies")
    workloads = _workloads(observed)
    refused = [f"{w['instance']}: {w['refusal']}" for w in workloads if w["refusal"]]
    down = [w["instance"] for w in workloads if not (w["envoy_pid"] and w["envoy_connected"])]
    deaf = [w["instance"] for w in workloads if not w["application_listening"]]
    if down or refused:
        found = f"Envoy down: {', '.join(down[:3])}" if down else f"refused: {refused[0]}"
        return Finding("proxies", Level.FAIL, found, "see envoy.log in the runtime directory")
    if deaf:
        return Finding(
            "proxies",
            Level.WARN,
            f"the program does not listen: {', '.join(deaf[:3])}",
            "callers get 503; does it listen on the port given with --port, on 127.0.0.1?",
        )
    return Finding("proxies", Level.OK, f"{len(workloads)} connected")


def check_isolation(observed: Observed) -> Finding:
    """Whether another process of this host could borrow an identity."""
    if observed.agent is None:
        return _unknown("isolation")
    weak = [w["instance"] for w in _workloads(observed) if w["isolation"] == "None"]
    if weak:
        return Finding(
            "isolation",
            Level.WARN,
            f"one user for agent and {len(weak)} workloads: a mistake is caught, malice is not",
            "run the agent as root and programs as users of their own (`limen run --user`)",
        )
    return Finding("isolation", Level.OK, "every workload is apart")


def check_mtls(observed: Observed) -> Finding:
    """Whether some mesh has mutual TLS off."""
    if observed.server is None:
        hint = "pass --config with this server's client file"
        return Finding("mutual TLS", Level.WARN, "not checked: no server was asked", hint)
    off = observed.server.get("meshes_without_mtls") or ()
    if off:
        return Finding(
            "mutual TLS",
            Level.WARN,
            f"OFF in mesh {', '.join(off)}: no identity there, and no permission is enforced",
            "name an enabled backend in the Mesh's spec.mtls, or leave spec.mtls out",
        )
    return Finding("mutual TLS", Level.OK, "on in every mesh")


def check_key_sets(observed: Observed) -> Finding:
    """Whether the server has keys of every issuer whose tokens are to be verified."""
    if observed.server is None:
        hint = "pass --config with this server's client file"
        return Finding("token issuers", Level.WARN, "not checked: no server was asked", hint)
    missing = observed.server.get("issuers_without_keys") or ()
    if missing:
        return Finding(
            "token issuers",
            Level.FAIL,
            f"no keys from {', '.join(missing[:3])}: all their tokens are refused",
            "`limen get jwks` says what went wrong at the last attempt",
        )
    return Finding("token issuers", Level.OK, "the keys of every issuer are known")


def check_given_certificates(observed: Observed) -> Finding:
    """Whether the certificates given by hand (Secrets) are valid, and for how long."""
    if observed.server is None:
        hint = "pass --config with this server's client file"
        return Finding("given certificates", Level.WARN, "not checked: no server was asked", hint)
    closed = observed.server.get("unopened_listeners") or ()
    if closed:
        hint = "apply the Secret that is named; `limen get secrets` lists what there is"
        return Finding("given certificates", Level.FAIL, f"a listener is closed: {closed[0]}", hint)
    given = observed.server.get("given_certificates") or ()
    refused = [f"{one['name']}: {one['refused']}" for one in given if one.get("refused")]
    if refused and all(one["left_s"] > 0 for one in given):
        found = f"refused, the one before serves: {'; '.join(refused[:3])}"
        return Finding("given certificates", Level.WARN, found, "mend the Secret and apply it")
    for limit_s, level, words in (
        (0.0, Level.FAIL, "expired: clients refuse the gateway"),
        (_GIVEN_SOON_S, Level.WARN, "end within two weeks"),
    ):
        ending = [str(one["name"]) for one in given if one["left_s"] <= limit_s]
        if ending:
            found = f"{', '.join(ending[:3])}: {words}"
            return Finding("given certificates", level, found, "apply the Secret with a new one")
    return Finding("given certificates", Level.OK, f"{len(given)} valid")


def check_audit_events(observed: Observed) -> Finding:
    """Whether what AUDIT rules match reaches the server's audit log."""
    if observed.agent is None:
        return Finding(
            "audit events",
            Level.WARN,
            "not checked: no agent runs here",
            "see `limen agent status`",
        )
    workloads = observed.agent["workloads"]
    lost = sum(w.get("audit_dropped", 0) for w in workloads)
    lost += observed.agent.get("audit_logs_dropped", 0)
    if lost:
        return Finding(
            "audit events",
            Level.FAIL,
            f"{lost} audit events were lost before the server had them",
            "the server was away for longer than logs are kept: `limen agent run --keep-logs`, "
            "`--keep-logs-mb`",
        )
    return Finding("audit events", Level.OK, "nothing that AUDIT rules match was lost")


def check_epoch(observed: Observed) -> Finding:
    """Whether this is the history of the store that the agent knows."""
    known = str(observed.agent["server_epoch"]) if observed.agent else ""
    now = str(observed.server.get("epoch", "")) if observed.server else ""
    if known and now and known != now:
        return Finding(
            "store epoch",
            Level.FAIL,
            "the server's store was restored from a backup since the agent joined it",
            "if that was meant, restart the agent with --accept-epoch",
        )
    return Finding("store epoch", Level.OK, now or known or "not compared")


def check_tmpfs(observed: Observed) -> Finding:
    """Whether the runtime directory lives in memory."""
    if observed.agent is None:
        return _unknown("runtime directory")
    runtime = observed.agent["runtime"]
    if not observed.agent["runtime_is_tmpfs"]:
        return Finding(
            "runtime directory",
            Level.WARN,
            f"{runtime} is on a disk: sealed identities may be kept there",
            "choose a directory on tmpfs with --runtime, such as /run or /dev/shm",
        )
    return Finding("runtime directory", Level.OK, f"{runtime} is on tmpfs")


def check_audit(observed: Observed) -> Finding:
    """Whether the audit log is unbroken."""
    if observed.audit is None:
        reason = observed.audit_error or "no client file"
        level = Level.FAIL if "tampered" in reason else Level.WARN
        return Finding(
            "audit chain", level, f"not verified: {reason}", "pass --config to verify it"
        )
    return Finding("audit chain", Level.OK, f"unbroken, {observed.audit.get('events', '?')} events")


def _workloads(observed: Observed) -> list[Facts]:
    return list(observed.agent["workloads"]) if observed.agent is not None else []


def _unknown(check: str) -> Finding:
    return Finding(check, Level.WARN, "not checked: no agent answers", "mend the first finding")


CHECKS: tuple[Callable[[Observed], Finding], ...] = (
    check_agent,
    check_server,
    check_certificates,
    check_budget,
    check_clock,
    check_sockets,
    check_versions,
    check_proxies,
    check_isolation,
    check_mtls,
    check_key_sets,
    check_given_certificates,
    check_audit_events,
    check_epoch,
    check_tmpfs,
    check_audit,
)
