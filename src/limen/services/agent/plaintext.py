"""Who still sends plaintext to ports that take mTLS too: counted from the access log. Pure.

For each port the newest `MAX_SOURCES` addresses are kept; requests of those before are counted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from limen.core.plan import request_log as log

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SOURCES = 50
MAX_PORTS = 64
_MARK = b'"' + log.PLAINTEXT_REQUEST.encode() + b'"'
_MAX_TEXT = 200


class PlaintextSeen:
    """Counts since `since_s`, by port and address. `to_json` is what `load` reads."""

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self._ports: dict[int, dict[str, Any]] = {}

    @classmethod
    def load(cls, value: object, since_s: float) -> PlaintextSeen:
        """From what an earlier agent saved; anew if that cannot be read."""
        made = cls(since_s)
        if not isinstance(value, dict) or not isinstance(value.get("ports"), list):
            return made
        try:
            ports = {
                int(port["port"]): {
                    "requests": int(port["requests"]),
                    "last": str(port["last"]),
                    "sources": {str(s["address"]): dict(s) for s in port["sources"]},
                }
                for port in value["ports"]
            }
            made.since_s, made._ports = float(value["since_s"]), ports
        except (KeyError, TypeError, ValueError):
            return cls(since_s)
        return made

    def count(self, raw: bytes) -> bool:
        """Count a line if it is about a plaintext request. Whether its source is a new one."""
        if _MARK not in raw or not raw.startswith(b"{"):
            return False
        try:
            line = json.loads(raw.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return False
        if not isinstance(line, dict) or line.get(log.EDGE) != log.PLAINTEXT_REQUEST:
            return False
        return self._count(line)

    def _count(self, line: Mapping[str, Any]) -> bool:
        number = log.number(line.get(log.PORT))
        if number not in self._ports and len(self._ports) >= MAX_PORTS:
            return False
        port = self._ports.setdefault(number, {"requests": 0, "last": "", "sources": {}})
        when = str(line.get(log.TIME) or "")[:_MAX_TEXT]
        port["requests"] += 1
        port["last"] = max(port["last"], when)
        sources = port["sources"]
        address = log.host_of(line.get(log.PEER_ADDRESS))[:_MAX_TEXT]
        known = sources.pop(address, None)
        source = known or {"address": address, "requests": 0}
        source["requests"] += 1
        source["last"] = when
        source["user_agent"] = str(line.get(log.USER_AGENT) or "")[:_MAX_TEXT]
        sources[address] = source  # the newest last
        if len(sources) > MAX_SOURCES:
            del sources[next(iter(sources))]
        return known is None

    def to_json(self) -> dict[str, Any]:
        """As reported and saved; times as the log has them (RFC 3339)."""
        return {
            "since_s": self.since_s,
            "ports": [
                {
                    "port": number,
                    "requests": port["requests"],
                    "last": port["last"],
                    "sources": list(port["sources"].values()),
                }
                for number, port in sorted(self._ports.items())
            ],
        }
