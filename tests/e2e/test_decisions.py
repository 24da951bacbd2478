"""Policies of the decision point on their way: applied at a server, deciding at a real Envoy."""

from __future__ import annotations

import asyncio
import os
import signal
import textwrap
from typing import TYPE_CHECKING

import pytest
from tests.e2e.agent_harness import application, host
from tests.services.server_harness import permission, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.agent_harness import Host, Way
    from tests.services.server_harness import Running

CUSTOM = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask}
spec:
  selector: {matchLabels: {app: items}}
  action: CUSTOM
  provider: {name: pdp}
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: items}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/shop]}}]}]
---
"""


def settings(provider: str, more: str = "") -> str:
    return f"""
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {{name: default}}
spec:
  {more}
  extensionProviders:
  - name: pdp
    limenPdp: {{{provider}}}
---
"""


def xacml(path: str, on_stale: str = "Refuse") -> str:
    """Lets the shop, and nobody else, read `path`."""
    string = "http://www.w3.org/2001/XMLSchema#string"
    equal = "urn:oasis:names:tc:xacml:1.0:function:string-equal"

    def match(category: str, attribute: str, value: str) -> str:
        return f"""<AllOf><Match MatchId="{equal}">
          <AttributeValue DataType="{string}">{value}</AttributeValue>
          <AttributeDesignator Category="{category}" AttributeId="{attribute}"
            DataType="{string}" MustBePresent="true"/></Match></AllOf>"""

    resource = "urn:oasis:names:tc:xacml:3.0:attribute-category:resource"
    subject = "urn:oasis:names:tc:xacml:1.0:subject-category:access-subject"
    first = "urn:oasis:names:tc:xacml:3.0:rule-combining-algorithm:deny-unless-permit"
    text = f"""<Policy xmlns="urn:oasis:names:tc:xacml:3.0:core:schema:wd-17" PolicyId="records"
        Version="1" RuleCombiningAlgId="{first}"><Target/>
      <Rule RuleId="read" Effect="Permit"><Target>
        <AnyOf>{match(resource, "urn:oasis:names:tc:xacml:1.0:resource:resource-id", path)}</AnyOf>
        <AnyOf>{
        match(
            subject,
            "urn:oasis:names:tc:xacml:1.0:subject:subject-id",
            "spiffe://default.mesh.local/ns/default/sa/shop",
        )
    }</AnyOf>
      </Target></Rule></Policy>"""
    return document("XacmlPolicy", ("policies", "xml", "records.xml"), text, on_stale)


def rego(path: str, on_stale: str = "Refuse") -> str:
    text = f"""package envoy.authz
default allow := false
allow if {{
  input.attributes.source.principal == "spiffe://default.mesh.local/ns/default/sa/shop"
  input.attributes.request.http.path == "{path}"
}}
"""
    return document("RegoPolicy", ("modules", "rego", "records.rego"), text, on_stale)


def document(kind: str, place: tuple[str, str, str], text: str, on_stale: str) -> str:
    field, content, file = place
    return f"""
apiVersion: limen.dev/v1
kind: {kind}
metadata: {{name: records}}
spec:
  onStale: {on_stale}
  {field}:
  - name: {file}
    {content}: |
{textwrap.indent(text, "      ")}
---
"""


LANGUAGES = pytest.mark.parametrize(
    ("provider", "policy"),
    [("xacmlPolicy: records", xacml), ("regoPolicy: default/records", rego)],
    ids=["xacml", "rego"],
)


async def pdp_pid(box: Host) -> int:
    found = await box.until(ITEMS, lambda w: w["decision_point"] is not None)
    return int(found["decision_point"])


ITEMS = "default/items/1"


async def apply(server: Running, *documents: str) -> None:
    applied = await server.apply(*documents, wait_s=30)
    assert applied.is_success, applied.text
    assert not applied.json()["wait"]["missing"], applied.text


async def until(shop: Way, url: str, status: int) -> None:
    async with asyncio.timeout(20):
        while (await shop.get(url))[0] != status:  # noqa: ASYNC110 - only a request can tell
            await asyncio.sleep(0.02)


@LANGUAGES
async def test_a_policy_decides_beside_envoy_from_its_publish_on(
    tmp_path: Path, provider: str, policy: object
) -> None:
    assert callable(policy)
    async with (
        running(tmp_path) as server,
        host(await server.token("items", "shop", "other")) as box,
        application("items") as app,
    ):
        await box.start()
        await box.add("items", app.port, instance="1")
        shop = await box.add("shop", app.port)
        other = await box.add("other", app.port)
        await apply(server, permission("*", "items", "all"))
        await apply(server, CUSTOM, settings(provider), policy("/one"))
        assert (await shop.get("http://items.mesh/one"))[0] == 200
        assert (await shop.get("http://items.mesh/two"))[0] == 403
        assert (await other.get("http://items.mesh/one"))[0] == 403

        await apply(server, policy("/two"))
        assert (await shop.get("http://items.mesh/one"))[0] == 403
        assert (await shop.get("http://items.mesh/two"))[0] == 200

        os.kill(await pdp_pid(box), signal.SIGKILL)
        await until(shop, "http://items.mesh/two", 200)
        assert (await shop.get("http://items.mesh/one"))[0] == 403
