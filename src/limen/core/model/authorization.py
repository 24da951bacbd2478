"""`security.istio.io` AuthorizationPolicy, as it was written: nothing is resolved here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.model.selector import Scope


class Action(Enum):
    """What a policy does with a request that one of its rules matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


@dataclass(frozen=True, slots=True)
class AuthorizationSource:
    """One `from` entry: all fields that are given must match; within a field any value.

    Values as written (`*`, `prefix*`, `*suffix`, exact; addresses or CIDRs, host bits allowed, for
    the IP fields), but service accounts: always `NAMESPACE/NAME`, no wildcard.
    """

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One `to` entry; paths may hold `{*}` and `{**}`."""

    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    not_ports: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class ConditionKind(Enum):
    """The attribute that a `when` entry looks at; the value is Istio's name of it."""

    HEADER = "request.headers"
    SOURCE_IP = "source.ip"
    REMOTE_IP = "remote.ip"
    SOURCE_NAMESPACE = "source.namespace"
    SOURCE_PRINCIPAL = "source.principal"
    SOURCE_SERVICE_ACCOUNT = "source.serviceAccount"
    REQUEST_PRINCIPAL = "request.auth.principal"
    AUDIENCES = "request.auth.audiences"
    PRESENTER = "request.auth.presenter"
    CLAIM = "request.auth.claims"
    DESTINATION_IP = "destination.ip"
    DESTINATION_PORT = "destination.port"
    SNI = "connection.sni"


@dataclass(frozen=True, slots=True)
class ConditionKey:
    """A parsed key: `names` is the header's name (one), the claim's path, or empty."""

    kind: ConditionKind
    names: tuple[str, ...] = ()


_BRACKETED = {ConditionKind.HEADER, ConditionKind.CLAIM}
CONDITION_KEYS = tuple(f"{k.value}[NAME]" if k in _BRACKETED else k.value for k in ConditionKind)
"""Every key as it is written; of claims inside claims each name has brackets of its own."""
_KEY = re.compile(r"([A-Za-z.]+)((?:\[[^\[\]]+\])*)")


def parse_condition_key(key: str) -> ConditionKey:
    """`source.ip`, `request.headers[X]`, `request.auth.claims[a][b]`.

    Raises InvalidInput (`unknown-condition`, or `bad-value` where the brackets are wrong).
    """
    parts = _KEY.fullmatch(key)
    name = key.partition("[")[0] if parts is None else parts[1]
    kind = next((k for k in ConditionKind if k.value == name), None)
    if kind is None:
        raise InvalidInput(
            f"the key {key[:80]!a} is not known",
            code="unknown-condition",
            hint=f"known keys: {', '.join(CONDITION_KEYS)}",
        )
    names = tuple(parts[2][1:-1].split("][")) if parts is not None and parts[2] else ()
    wanted = kind in _BRACKETED
    if parts is None or bool(names) != wanted or (kind is ConditionKind.HEADER and len(names) > 1):
        form = f"{name}[NAME]" if kind is ConditionKind.HEADER else f"{name}[NAME][INNER]..."
        raise InvalidInput(
            f"the key {key[:80]!a} is not well formed",
            code="bad-value",
            hint=f"write {form if wanted else name}",
        )
    return ConditionKey(kind, names)


@dataclass(frozen=True, slots=True)
class When:
    """One `when` entry: `values` (any) and `not_values` (none); at least one of them is given."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()

    @property
    def condition(self) -> ConditionKey:
        """The key, parsed. Raises InvalidInput only for a key that no reader accepted."""
        return parse_condition_key(self.key)


@dataclass(frozen=True, slots=True)
class AuthorizationRule:
    """Matches if any source, any operation and all conditions match; empty lists match all."""

    sources: tuple[AuthorizationSource, ...] = ()
    operations: tuple[Operation, ...] = ()
    when: tuple[When, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthorizationPolicy:
    """No rules: matches nothing (an ALLOW without rules is "allow nothing").

    `provider` names the extension provider of a CUSTOM policy. `dry_run`: annotation
    `istio.io/dry-run: "true"`; its verdict is reported and never enforced.
    """

    scope: Scope
    action: Action = Action.ALLOW
    rules: tuple[AuthorizationRule, ...] = ()
    provider: str = ""
    dry_run: bool = False
