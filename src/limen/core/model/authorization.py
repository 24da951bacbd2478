"""`security.istio.io` AuthorizationPolicy, as it was written: nothing is resolved here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

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

    Values as written (`*`, `prefix*`, `*suffix`, exact; CIDRs for the IP fields).
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


@dataclass(frozen=True, slots=True)
class When:
    """One `when` entry: `values` (any) and `not_values` (none); at least one of them is given."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


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
