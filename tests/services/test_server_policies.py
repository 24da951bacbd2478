"""Policies of the decision point on a server: tried out, versioned, kept to a team."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from click.testing import CliRunner
from tests.services.server_harness import running

from limen.adapters.store import Put
from limen.cli.main import limen
from limen.core.envoy.policies import content_of, policy_set
from limen.core.model.resource import ResourceKey
from limen.errors import Forbidden, Untrusted
from limen.services.agent.published import verify_published
from limen.services.server.access import Grant, Who
from limen.services.server.api.models import ApplyRequest
from limen.services.server.applying import apply_files
from limen.services.server.policy_history import KEPT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.server_harness import Running

    from limen.services.agent.node_identity import NodeIdentity

XACML = """
apiVersion: limen.dev/v1
kind: XacmlPolicy
metadata: {{name: records, namespace: {namespace}}}
spec:
  policies:
  - name: records.xml
    xml: |
      <Policy xmlns="urn:oasis:names:tc:xacml:3.0:core:schema:wd-17" PolicyId="records"
        Version="1.{version}"
        RuleCombiningAlgId="urn:oasis:names:tc:xacml:{algorithm}">
        <Target/><Rule RuleId="r" Effect="Permit"/></Policy>
"""
KEY = ResourceKey("limen.dev/XacmlPolicy", "default", "default", "records")
HISTORY = "/v1/policies/xacmlpolicy/records/history"


def xacml(version: int = 0, namespace: str = "default", algorithm: str = "") -> str:
    known = "3.0:rule-combining-algorithm:deny-unless-permit"
    return XACML.format(version=version, namespace=namespace, algorithm=algorithm or known)


async def test_a_policy_that_no_engine_loads_is_refused_with_its_place(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        refused = await server.apply(xacml(algorithm="3.0:nonsense"))
        assert refused.status_code == 400
        (found,) = refused.json()["diagnostics"]
        assert found["message"].startswith("records.xml:3: ")
        assert (found["line"], found["path"]) == (11, "/spec/policies/0/xml")
        assert (await server.api.get(HISTORY)).status_code == 404

        rego = (
            "apiVersion: limen.dev/v1\nkind: RegoPolicy\nmetadata: {name: records}\nspec:\n"
            "  modules:\n  - name: a.rego\n    rego: |\n      package envoy.authz\n"
            "      allow if {\n"
        )
        refused = await server.apply(rego)
        assert refused.status_code == 400
        assert "a.rego:" in refused.json()["diagnostics"][0]["message"]


async def test_an_obligation_about_a_body_is_refused_at_apply(tmp_path: Path) -> None:
    duty = """<Rule RuleId="r" Effect="Permit"><ObligationExpressions>
          <ObligationExpression ObligationId="urn:limen:obligation:{}" FulfillOn="Permit"/>
          </ObligationExpressions></Rule>"""
    async with running(tmp_path) as server:
        rule = '<Rule RuleId="r" Effect="Permit"/>'
        refused = await server.apply(xacml().replace(rule, duty.format("redact")))
        assert refused.status_code == 400
        (found,) = refused.json()["diagnostics"]
        assert found["code"] == "xacml-body-obligation"
        assert (await server.apply(xacml().replace(rule, duty.format("log")))).is_success


async def test_every_publish_has_its_epoch_its_author_and_its_text(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        for version in (1, 1, 2):  # what is the same is not published again
            assert (await server.apply(xacml(version))).is_success
        assert (await server.api.delete("/v1/resources/xacmlpolicies/records")).is_success
        assert (await server.apply(xacml(3))).is_success
        items = (await server.api.get(HISTORY)).json()["items"]
        assert [i["epoch"] for i in items] == [1, 2, 3, 4]
        assert [i["deleted"] for i in items] == [False, False, True, False]
        assert {i["author"] for i in items} == {"admin"}
        resource = server.control.mirror.snapshot.resources[KEY]
        assert resource.spec.epoch == 4  # type: ignore[union-attr]
        shown = (await server.api.get("/v1/resources/xacmlpolicies/records")).json()
        assert shown["epoch"] == 4
        first = (await server.api.get(f"{HISTORY}/1")).json()["document"]
        assert 'Version="1.1"' in first["spec"]["policies"][0]["xml"]
        assert (await server.api.get(f"{HISTORY}/9")).status_code == 404
        assert (await server.api.get("/v1/policies/mesh/default/history")).status_code == 404


async def test_only_the_last_publishes_are_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await server.apply(xacml(1))).is_success
        body = dict(server.control.mirror.body_of(KEY) or {}, epoch=KEPT)
        await server.control.commit([Put(KEY, body)], [])
        assert (await server.apply(xacml(2))).is_success
        items = (await server.api.get(HISTORY)).json()["items"]
        assert [i["epoch"] for i in items] == [KEPT + 1]


async def test_a_team_keeps_to_its_own_policies(tmp_path: Path) -> None:
    own = Grant(*map(frozenset, ({"update"}, {"limen.dev/XacmlPolicy"}, {"default"}, {"team"})))
    who = Who("team", (own,))
    async with running(tmp_path) as server:

        def asked(namespace: str) -> ApplyRequest:
            text = xacml(namespace=namespace)
            return ApplyRequest.model_validate({"files": [{"name": "a", "text": text}]})

        assert (await apply_files(server.control, who, asked("team"))).revision
        with pytest.raises(Forbidden, match="may not update"):
            await apply_files(server.control, who, asked("default"))


async def test_publish_history_diff_and_rollback(tmp_path: Path) -> None:
    own = tmp_path / "policies"
    own.mkdir()
    text = "package envoy.authz\ndefault allow := false\n"
    async with running(tmp_path) as server:
        client = server.control.settings.data / "client.json"

        async def cli(*arguments: str) -> tuple[int, str]:
            environment = {"LIMEN_CONFIG": str(client)}
            run = CliRunner().invoke
            result = await asyncio.to_thread(run, limen, ["policy", *arguments], env=environment)
            return result.exit_code, result.output

        def publish(more: str) -> tuple[str, ...]:
            (own / "a.rego").write_text(text + more)
            return ("publish", "records", "--policy", str(own))

        assert await cli(*publish("")) == (0, "RegoPolicy default/records: created, epoch 1\n")
        code, said = await cli(*publish('allow if input.a == "b"\n'), "--wait")
        assert (code, said.splitlines()[1]) == (0, "0 of 0 subscribers decide by it")
        code, said = await cli("history", "records")
        assert (code, len(said.splitlines())) == (0, 3)
        code, said = await cli("diff", "records")
        assert [line for line in said.splitlines() if line[0] in "+-"][2:] == [
            '+allow if input.a == "b"'
        ]
        code, said = await cli("rollback", "records")
        assert (code, said) == (0, "RegoPolicy default/records: configured, epoch 3\n")
        assert await cli("diff", "records", "1", "3") == (0, "")
        code, said = await cli("rollback", "records", "9")
        assert code != 0
        code, said = await cli(*publish("allow if {\n"))
        assert code != 0
        found = (await server.api.get("/v1/policies/regopolicy/records/history")).json()
        assert len(found["items"]) == 3


async def test_a_subscriber_that_has_not_confirmed_is_named(tmp_path: Path) -> None:
    settings = (
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        "spec: {extensionProviders: [{name: pdp, limenPdp: {xacmlPolicy: records}}]}\n"
    )
    custom = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask}\n"
        "spec: {action: CUSTOM, provider: {name: pdp}, rules: [{}]}\n"
    )
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items", local={"pdp_socket": "/run/pdp.sock"})
        assert (await server.apply(settings, custom, xacml())).is_success
        asked = "/v1/policies/xacmlpolicy/records/subscribers"

        async def first_missing() -> dict[str, str]:
            found: list[dict[str, str]] = (await server.api.get(asked)).json()["missing"]
            return (found or [{"why": ""}])[0]

        missing = await first_missing()
        assert (missing["instance"], missing["why"]) == ("default/items/1", "not connected")
        proxy = await node.open("default/items/1")
        found = (await server.api.get(asked, params={"wait_s": 10})).json()
        assert (found["enforced"], found["missing"]) == (1, [])
        assert proxy.has("policies")
        proxy.refuse = "policies"
        assert (await server.apply(xacml(2))).is_success
        async with asyncio.timeout(10):
            while "refused" not in (await first_missing())["why"]:  # noqa: ASYNC110 - by API
                await asyncio.sleep(0.01)
        missing = await first_missing()
        assert missing["why"] == "refused PolicySet policies: no policies"
        await node.close()


async def test_a_set_says_whose_it_is_and_no_other_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path / "one") as server, running(tmp_path / "two") as other:
        assert server.control.loop.sign_policies is not None
        plain = policy_set(())
        signed = server.control.loop.sign_policies(plain)
        assert signed.version == plain.version  # who signs makes no other set of it
        sent = content_of(signed.body)
        found = verify_published(sent, node_of(server))
        assert found.content == content_of(plain.body)
        assert found.store == await server.control.store.epoch()
        head, _, content = sent.partition(b"\n")
        strange = other.control.authority.control_bundle_pem
        for offered, node in (
            (head + b"\n" + content + b" ", node_of(server)),
            (head.replace(found.store.encode(), b"older") + b"\n" + content, node_of(server)),
            (content, node_of(server)),
            (sent, node_of(server, control_bundle_pem=strange)),
            (sent, node_of(server, node_address="192.0.2.1:1")),
        ):
            with pytest.raises(Untrusted):
                verify_published(offered, node)


def node_of(server: Running, **changes: str) -> NodeIdentity:
    control = server.control
    own = {
        "node_id": "n",
        "mesh": "default",
        "node_address": control.node_address,
        "control_bundle_pem": control.authority.control_bundle_pem,
    }
    return cast("NodeIdentity", SimpleNamespace(**{**own, **changes}))
