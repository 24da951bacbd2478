"""Identities for the next agent on the same boot: one sealed file in the runtime directory.

Holds keys, so it is sealed (adapters.sealed) and bound to boot id and mesh: after a reboot it does
not open, and workloads are attested anew. Expired certificates in it are dropped when it is read.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from limen.adapters.runtime_dir import read_boot_id, write_atomic
from limen.adapters.sealed import load_or_make_key, seal, unseal
from limen.errors import LimenError
from limen.services.agent.identity import Svid
from limen.services.agent.registration import Registration, parse_registration
from limen.services.agent.spec import WorkloadSpec, parse_spec, spec_to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.adapters.runtime_dir import AgentPaths

_log = logging.getLogger("limen.agent")


@dataclass(frozen=True, slots=True)
class WorkloadRecord:
    """All that a restarted agent needs to go on serving one instance without a server.

    `given`: certificates that a gateway serves with, as the server sent them.
    """

    spec: WorkloadSpec
    registration: Registration
    svid: Svid | None
    outbound_port: int
    last_contact_s: float
    secret: str = field(repr=False)
    given: bytes = field(default=b"", repr=False)


def save_handover(paths: AgentPaths, mesh: str, records: Iterable[WorkloadRecord]) -> None:
    """Seal `records`; without a boot id nothing is written. Raises Unavailable."""
    boot = read_boot_id()
    if not boot:
        return
    body = json.dumps([_to_json(record) for record in records]).encode()
    key = load_or_make_key(paths.seal_key)
    write_atomic(paths.sealed, seal(key, body, _context(boot, mesh)))


def load_handover(paths: AgentPaths, mesh: str) -> tuple[WorkloadRecord, ...]:
    """The records of an earlier agent on this boot; empty if none or if they do not open."""
    try:
        blob = paths.sealed.read_bytes()
        boot = read_boot_id()
        if not boot:
            return ()
        body = unseal(load_or_make_key(paths.seal_key), blob, _context(boot, mesh))
        return tuple(_from_json(raw) for raw in json.loads(body))
    except FileNotFoundError:
        return ()
    except (LimenError, OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("identities of an earlier agent are not used: %s", error)
        return ()


def _context(boot: str, mesh: str) -> bytes:
    return f"{boot}\n{mesh}".encode()


def _to_json(record: WorkloadRecord) -> dict[str, Any]:
    return {
        "spec": spec_to_json(record.spec),
        "registration": asdict(record.registration),
        "svid": asdict(record.svid) if record.svid else None,
        "outbound_port": record.outbound_port,
        "last_contact_s": record.last_contact_s,
        "secret": record.secret,
        "given": base64.b64encode(record.given).decode("ascii"),
    }


def _from_json(raw: dict[str, Any]) -> WorkloadRecord:
    svid = Svid(**raw["svid"]) if raw["svid"] else None
    return WorkloadRecord(
        spec=parse_spec(raw["spec"]),
        registration=parse_registration(raw["registration"]),
        svid=None if svid is None or svid.expired(time.time()) else svid,
        outbound_port=int(raw["outbound_port"]),
        last_contact_s=float(raw["last_contact_s"]),
        secret=str(raw["secret"]),
        given=base64.b64decode(raw.get("given", "")),
    )
