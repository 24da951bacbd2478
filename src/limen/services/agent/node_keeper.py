"""Keeps the node's own identity: joined, renewed at half life, its server's history and roots."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from limen.core.pki.join_token import fingerprint_of, parse_join_token
from limen.core.pki.pem import parse_certificates
from limen.errors import Conflict, InvalidInput, LimenError
from limen.services.agent.identity import build_request, key_to_pem, make_key, sleep_until
from limen.services.agent.node_identity import (
    NodeIdentity,
    agent_versions,
    load_node,
    next_renewal_s,
    redeem_token,
    renewed,
    save_node,
    with_bundle,
)

if TYPE_CHECKING:
    from limen.services.agent.node_link import NodeLink
    from limen.services.agent.settings import AgentSettings

_RETRY_S = 30.0
_log = logging.getLogger("limen.agent")


async def load_or_join(settings: AgentSettings, envoy_version: str) -> NodeIdentity:
    """The node's identity, from disk or for a token. Raises InvalidInput (`no-token`), ..."""
    node = await asyncio.to_thread(load_node, settings.paths.node)
    if node is not None and node.times()[1] > time.time():
        if node.mesh != settings.mesh:
            raise InvalidInput(f"{settings.paths.state} is the state of mesh {node.mesh}")
        _check_token_server(settings, node)
        return node
    if not settings.token:
        expired = "its certificate has expired" if node else "it has not joined yet"
        raise InvalidInput(
            f"this node needs a join token: {expired}",
            code="no-token",
            hint="make one with `limen token create`, pass it with --token-file or LIMEN_TOKEN",
        )
    versions = agent_versions(envoy_version)
    node = await asyncio.to_thread(
        redeem_token, settings.token, settings.mesh, settings.server, versions
    )
    save_node(settings.paths.node, node)
    _log.info("joined mesh %s as node %s", node.mesh, node.node_id)
    return node


def _check_token_server(settings: AgentSettings, node: NodeIdentity) -> None:
    """Refuse a token that leads elsewhere. Raises InvalidInput (`other-server`).

    The token by which this node joined long ago may name a root that has been replaced since, and
    may lie around for ever: so only another root *and* another address say "another server".
    """
    if not settings.token:
        return
    token = parse_join_token(settings.token)
    known = map(fingerprint_of, parse_certificates(node.control_bundle_pem))
    wanted = settings.server or token.server
    if wanted != node.server and token.fingerprint not in known:
        raise InvalidInput(
            f"this host has joined {node.server}, and the join token is of {wanted}",
            code="other-server",
            hint=f"make the token at {node.server}, remove {settings.paths.node} to leave it, or "
            "run one more agent with --state and --runtime of its own",
        )


class NodeKeeper:
    """The present identity, in memory and on disk, and the link that uses it."""

    def __init__(self, settings: AgentSettings, node: NodeIdentity, link: NodeLink) -> None:
        self._settings = settings
        self._link = link
        self.node = node

    async def renew_forever(self) -> None:
        """Renew at half life with jitter; when that fails, again and again."""
        while True:
            await sleep_until(next_renewal_s(self.node, secrets.randbelow(2001) / 1000 - 1))
            try:
                await self.renew()
            except (LimenError, ValueError) as error:
                _log.warning("the node's certificate was not renewed: %s", error)
                start, end = self.node.times()
                await asyncio.sleep(min(_RETRY_S, (end - start) / 20))

    async def renew(self) -> None:
        """A new key and certificate. Raises LimenError, ValueError."""
        key = make_key()
        answer = await self._link.call("Renew", {"csr_pem": build_request(key)})
        certificate = str(answer.get("certificate_pem"))
        bundle = str(answer.get("control_bundle_pem") or "")
        await self._take(renewed(self.node, key_to_pem(key), certificate, bundle))
        _log.info("the node's certificate was renewed")

    async def take_bundle(self, bundle_pem: str) -> None:
        """Trust the control authority's roots as the server now says them; "" says nothing."""
        await self._take(with_bundle(self.node, bundle_pem))

    async def _take(self, node: NodeIdentity) -> None:
        if node == self.node:
            return
        save_node(self._settings.paths.node, node)
        self.node = node
        await self._link.replace(node)

    def check_epoch(self, epoch: str) -> None:
        """Refuse a server whose store was set back, unless told. Raises Conflict."""
        if not epoch or epoch == self.node.server_epoch:
            return
        if self.node.server_epoch and not self._settings.accept_epoch:
            raise Conflict(
                "the server's store was restored from a backup: this agent does not go back",
                code="epoch-changed",
                hint="if that was meant, restart the agent with --accept-epoch",
            )
        self.node = replace(self.node, server_epoch=epoch)
        save_node(self._settings.paths.node, self.node)
