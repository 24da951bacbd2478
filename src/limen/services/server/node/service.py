"""`limen.node.v1.Node`: what an agent asks as a node. Every answer concerns its own instances only.

Names in certificates are computed here from what is registered; what the agent sends proves that it
has a key, no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Check, Put
from limen.core.model.mesh import Isolation
from limen.core.model.names import parse_instance_name
from limen.core.model.resource import DATAPLANE, ResourceKey
from limen.core.model.workload import Dataplane
from limen.core.pki.join_token import parse_join_token
from limen.errors import Conflict, Forbidden, InvalidInput, Unavailable
from limen.services.server.applying import cutovers
from limen.services.server.joining import entitlement_of
from limen.services.server.joining_records import node_key
from limen.services.server.meshes import mesh_of, settings_of, settings_to_json
from limen.services.server.node.auditing import check_speaker, record
from limen.services.server.node.limits import CallLimits
from limen.services.server.node.rpc import Method
from limen.services.server.node.sayings import said
from limen.services.server.plaintext import permissive_ports
from limen.services.server.records import resource_of
from limen.services.server.registrations import check_local_ports, parse_place
from limen.services.server.retiring import deregister, is_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue
    from limen.core.model.mesh import Mesh
    from limen.core.model.names import InstanceName
    from limen.services.server.authority import Issued
    from limen.services.server.control import Control
    from limen.services.server.joining import Node
    from limen.services.server.registrations import Place

SERVICE = "/limen.node.v1.Node/"
MAX_INSTANCES = 1000
"""Of one node: what it registers is kept, and its reports are as long."""
_ATTEMPTS = 5
_STRENGTH = {None: 0, Isolation.NONE: 0, Isolation.UID: 1, Isolation.NETWORK_NAMESPACE: 2}


class NodeService:
    """The unary methods, on one server's parts."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._limits = CallLimits(control.clock.monotonic_s)

    def methods(self) -> tuple[Method, ...]:
        """Every method with its path."""
        return (
            Method(SERVICE + "Renew", call=self.renew),
            Method(SERVICE + "Entitle", call=self.entitle),
            Method(SERVICE + "Register", call=self.register),
            Method(SERVICE + "Deregister", call=self.deregister),
            Method(SERVICE + "Sign", call=self.sign),
            Method(SERVICE + "Status", call=self.status),
            Method(SERVICE + "Audit", call=self.audit),
        )

    async def renew(self, node: Node, message: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """A new certificate for the node itself."""
        self._limits.take("Renew", node)
        issued = await self._control.joining.renew(node.node_id, _text(message, "csr_pem"))
        self._control.metrics.certificates.inc()
        return {
            "certificate_pem": issued.chain_pem,
            "control_bundle_pem": issued.bundle_pem,
            "not_after_s": issued.not_after_s,
            "renew_at_s": issued.renew_at_s,
        }

    async def entitle(self, node: Node, message: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """The node may run what one more join token names."""
        self._limits.take("Entitle", node)
        token = parse_join_token(_text(message, "token"))
        wider = await self._control.joining.entitle(node.node_id, token.token_id, token.secret)
        return {"entitlements": [f"{e.namespace}/{e.service}" for e in wider.entitlements]}

    async def register(self, node: Node, message: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """An instance runs on this node, at this place."""
        place = parse_place(said(message, node.mesh), node.mesh)
        _check_isolation(self._control, place)
        check_local_ports(place)
        await self._control.ensure_mesh(node.mesh)
        if message.get("reports_ready") is True:
            self._control.loop.presence.hold(place.instance)
        for _ in range(_ATTEMPTS):
            try:
                key = await self._store_registration(node, place)
            except Conflict as error:
                if error.code != "conflict":
                    raise
                continue
            answer = self._registered(place.instance, key)
            return {**answer, "epoch": await self._control.store.epoch()}
        raise Conflict(f"{place.instance} is being changed all the time", hint="try again")

    async def deregister(
        self, node: Node, message: Mapping[str, JsonValue]
    ) -> dict[str, JsonValue]:
        """The instance ended on purpose: it leaves at once. Unknown ones have left already."""
        instance = parse_instance_name(_text(message, "instance"), node.mesh)
        actor = f"node:{node.node_id}"
        await deregister(self._control, self._find_key(instance), node.node_id, actor)
        return {}

    async def sign(self, node: Node, message: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """A certificate for an instance that is registered on this node."""
        control = self._control
        self._limits.take("Sign", node)
        dataplane = self.own_instance(node, _text(message, "instance"))
        mesh = mesh_of(control.mirror.snapshot, node.mesh)
        try:
            async with asyncio.timeout(mesh.authority.request_timeout_s):
                issued = await self._issue(node, dataplane, _text(message, "csr_pem"), mesh)
        except TimeoutError:
            raise Unavailable(
                f"no signature within {mesh.authority.request_timeout_s:g} s",
                code="sign-timeout",
                hint="the mesh's dpCert.requestTimeout says how long it may take; try again",
            ) from None
        control.metrics.certificates.inc()
        return {
            "certificate_pem": issued.chain_pem,
            "bundle_pem": issued.bundle_pem,
            "not_after_s": issued.not_after_s,
            "renew_at_s": issued.renew_at_s,
        }

    async def _issue(self, node: Node, dataplane: Dataplane, csr_pem: str, mesh: Mesh) -> Issued:
        """Nothing is given to a node that was revoked meanwhile: recording it would fail."""
        control = self._control
        for _ in range(_ATTEMPTS):
            try:
                return await control.authority.issue_workload(
                    dataplane.name,
                    dataplane.spiffe_id(control.loop.trust_domain(node.mesh)),
                    (dataplane.name.workload.dns_san,),
                    csr_pem,
                    lifetime_s=mesh.authority.leaf_lifetime_s,
                    actor=f"node:{node.node_id}",
                    node=node.node_id,
                    only_if=(Check(node_key(node.node_id), node.revision),),
                )
            except Conflict:
                node = await control.joining.node(node.node_id)
        raise Conflict(f"node {node.node_id} is being changed all the time", hint="try again")

    async def status(self, node: Node, message: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """What the agent sees of its proxies. Shown; and callers go where the program listens."""
        control = self._control
        instances = message.get("instances")
        if not isinstance(instances, list) or len(instances) > MAX_INSTANCES:
            raise InvalidInput(f"instances must be a list of at most {MAX_INSTANCES}")
        versions = _versions(message.get("versions"))
        for found in instances:
            if not isinstance(found, dict):
                raise InvalidInput("instances must hold objects")
            dataplane = self.own_instance(node, _text(found, "instance"))
            report = control.proxies.of(dataplane.name).report
            report.ready = found.get("ready") is True
            control.loop.presence.reported(dataplane.name, ready=report.ready)
            report.envoy_version = _text(found, "envoy_version", "")[:64]
            report.isolation = _text(found, "isolation", "")[:64]
            budget = found.get("outage_budget_s")
            report.outage_budget_s = budget if isinstance(budget, int | float) else None
            report.versions = versions
            report.time_s = control.clock.now_s()
            report.take_seen(found, self._permissive(dataplane.name))
        return {"revision": control.loop.revision}

    async def audit(self, node: Node, message: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Requests that AUDIT rules matched, for the audit log; bounded, each taken once."""
        self._limits.take("Audit", node)
        instance = parse_instance_name(_text(message, "instance"), node.mesh)
        workload = instance.workload
        body = self._control.mirror.body_of(self._find_key(instance))
        entitled = any(
            (e.service, e.namespace) == (workload.name, workload.namespace)
            for e in node.entitlements
        )
        registration = body.get("registration") if body is not None else None
        check_speaker(node, instance, registration, entitled=entitled)
        return {"position": await record(self._control, node, instance, message)}

    def _permissive(self, instance: InstanceName) -> frozenset[int]:
        resource = self._control.mirror.snapshot.resources[self._find_key(instance)]
        return permissive_ports(self._control, resource)

    def own_instance(self, node: Node, text: str) -> Dataplane:
        """The instance, if this node registered it. Raises Forbidden otherwise, known or not."""
        instance = parse_instance_name(text, node.mesh)
        key = self._find_key(instance)
        body = self._control.mirror.body_of(key)
        resource = self._control.mirror.snapshot.resources.get(key)
        if body is None or not is_of(body, node.node_id) or resource is None:
            raise Forbidden(
                f"{instance} is not registered on node {node.node_id}",
                code="not-your-instance",
                hint="register it first",
            )
        if not isinstance(resource.spec, Dataplane):
            raise TypeError(f"{key} is not a Dataplane")
        return resource.spec

    async def _store_registration(self, node: Node, place: Place) -> ResourceKey:
        """Write what the node said, unless it is written already."""
        control = self._control
        workload = place.instance.workload
        entitlement = entitlement_of(node, workload.name, workload.namespace)
        if entitlement.gateway is not place.gateway:
            wanted = "a gateway" if place.gateway else "a workload that is none"
            raise Forbidden(
                f"node {node.node_id} may not run {workload} as {wanted}",
                code="not-entitled",
                hint="make a token for what it is: `limen token create` with or without --gateway",
            )
        key = self._find_key(place.instance)
        old = control.mirror.body_of(key)
        self._check_free(node, place.instance, old)
        self._check_room(node, known=old is not None)
        registration: dict[str, JsonValue] = {
            "node": node.node_id,
            "place": dict(place.raw),
            "tags": dict(entitlement.tags),
            "service_account": entitlement.service_account or entitlement.service,
        }
        body: dict[str, JsonValue] = {
            "document": old.get("document") if old else None,
            "registration": registration,
        }
        if old == body:
            return key
        resource = resource_of(key, body)
        narrowed = control.loop.narrowed([resource])
        writes = [
            Put(key, body, expected=control.mirror.revision_of(key)),
            *cutovers(narrowed, control.mirror.snapshot.revision + 1),
        ]
        revision = await control.commit(writes, [self._entry(node, "register", key)])
        await control.loop.compiled(revision)
        return key

    def _check_free(
        self, node: Node, instance: InstanceName, old: Mapping[str, JsonValue] | None
    ) -> None:
        """An instance that lives on another node is not taken over."""
        registration = old.get("registration") if old else None
        if not isinstance(registration, dict) or registration.get("node") == node.node_id:
            return
        if instance not in self._control.loop.presence.absent:
            raise Conflict(
                f"{instance} runs on node {registration.get('node')}",
                code="instance-taken",
                hint="choose another instance name, or stop the other one first",
            )

    def _check_room(self, node: Node, *, known: bool) -> None:
        if known:
            return
        there = self._control.mirror.snapshot.of_kind(DATAPLANE, node.mesh)
        own = sum(isinstance(r.spec, Dataplane) and r.spec.node == node.node_id for r in there)
        if own >= MAX_INSTANCES:
            raise Conflict(
                f"node {node.node_id} has {own} instances, the most there may be",
                code="too-many-instances",
                hint="take some back (`limen delete dataplane`), or join as another node",
            )

    def _find_key(self, instance: InstanceName) -> ResourceKey:
        """The operator's document of this name, if it is this workload's; else a key of its own."""
        workload = instance.workload
        named = ResourceKey(DATAPLANE, workload.mesh, workload.namespace, instance.instance)
        found = self._control.mirror.snapshot.resources.get(named)
        own = (
            found is not None and isinstance(found.spec, Dataplane) and found.spec.name == instance
        )
        if own:
            return named
        name = f"{workload.name}.{instance.instance}"
        return ResourceKey(DATAPLANE, workload.mesh, workload.namespace, name)

    def _registered(self, instance: InstanceName, key: ResourceKey) -> dict[str, JsonValue]:
        snapshot = self._control.mirror.snapshot
        dataplane = snapshot.resources[key].spec
        if not isinstance(dataplane, Dataplane):
            raise TypeError(f"{key} is not a Dataplane")
        mesh = instance.workload.mesh
        trust_domain = self._control.loop.trust_domain(mesh)
        authority = mesh_of(snapshot, mesh).authority
        return {
            "instance": str(instance),
            "spiffe_id": str(dataplane.spiffe_id(trust_domain)),
            "dns_names": [instance.workload.dns_san],
            "trust_domain": trust_domain,
            "lifetime_s": authority.leaf_lifetime_s,
            "request_timeout_s": authority.request_timeout_s,
            "settings": settings_to_json(settings_of(snapshot, mesh)),
            "control_bundle_pem": self._control.authority.control_bundle_pem,
            "policies": True,
        }

    def _entry(self, node: Node, verb: str, key: ResourceKey) -> AuditEntry:
        now_s = self._control.clock.now_s()
        return AuditEntry(
            now_s, f"node:{node.node_id}", verb, key.kind, key.mesh, key.namespace, key.name
        )


def _check_isolation(control: Control, place: Place) -> None:
    wanted = settings_of(control.mirror.snapshot, place.instance.workload.mesh).min_isolation
    if _STRENGTH[place.local.isolation] < _STRENGTH[wanted]:
        have = place.local.isolation.value if place.local.isolation else "none that is known"
        raise Forbidden(
            f"the mesh requires isolation {wanted.value}; {place.instance} has {have}",
            code="isolation-too-weak",
            hint="run the workload under its own user or in its own network namespace",
        )


def _versions(value: JsonValue) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > 20:
        raise InvalidInput("versions must be an object of at most 20 texts")
    return {str(k)[:64]: str(v)[:64] for k, v in value.items()}


def _text(message: Mapping[str, JsonValue], key: str, default: str | None = None) -> str:
    value = message.get(key, default)
    if not isinstance(value, str) or len(value) > 8192:
        raise InvalidInput(f"{key} must be a text")
    return value
