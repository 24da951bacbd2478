"""The case of `docs/worked-case.md`: its very files, real proxies, a real provider of logins.

Every combination of caller, application, method, path and token is sent, and each answer and the
rule that decided, as the proxies logged it, is compared with `explain`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import re
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tests.docs.test_pages import FENCE
from tests.e2e.agent_harness import Application, Host, Way, application, host
from tests.e2e.edge_harness import Company
from tests.e2e.envoy_harness import Connection
from tests.e2e.oidc_provider import oidc_provider
from tests.e2e.test_gateway_run import HOST, start_front
from tests.services.server_harness import running

from limen.adapters.ports import free_port
from limen.adapters.runtime_dir import AgentPaths
from limen.core.compiler.checks import check
from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import ExplainQuery
from limen.core.dialects import read_resources
from limen.core.envoy import names
from limen.core.model.diagnostic import Severity, has_errors
from limen.core.model.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.e2e.envoy_harness import Response
    from tests.e2e.oidc_provider import OidcProvider
    from tests.services.server_harness import Running

    from limen.core.compiler.explanation import Explanation

PAGE = Path(__file__).parents[2] / "docs" / "worked-case.md"
OUTSIDE = "outside"
GATEWAY = "istio-system/ingress"
CALLERS = {
    "partners/billing": ("shop/items", "shop/orders"),
    "sales/crm": ("shop/items", "shop/orders"),
    "support/desk": ("shop/items", "shop/orders"),
    "default/stranger": ("shop/items", "shop/orders"),
    OUTSIDE: ("shop/items",),
}
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
PATHS = ("/info", "/info/1?x=1", "/data", "/data/1", "/x/../data", "/")
TOKENS = (
    "none", "valid", "expired", "forged", "malformed", "other issuer", "other audience", "no iss",
)  # fmt: skip
NO_RULE = ""
WATCHING = """
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {name: default}
spec: {accessLog: All}
"""
ORIGIN = "https://www.mycompany.de"


def page_files() -> dict[str, str]:
    """The documents of the page by file name."""
    found = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    named = ((re.search(r"file=case/(\S+)", info), body) for _, info, body in found)
    return {match[1]: body for match, body in named if match}


def documents(files: Mapping[str, str]) -> list[dict[str, Any]]:
    return [d for text in files.values() for d in yaml.safe_load_all(text)]


def snapshot(files: Mapping[str, str]) -> Snapshot:
    read = [read_resources(text.encode(), name) for name, text in files.items()]
    assert [f for _, _, findings in read for f in findings if f.severity is Severity.ERROR] == []
    return Snapshot({r.key: r for resources, _, _ in read for r in resources})


@dataclass(frozen=True)
class Token:
    """`claims` None: there is none. `sound`: `explain`, which is given claims, can be asked."""

    text: str
    claims: dict[str, Any] | None
    sound: bool = True


@dataclass(frozen=True)
class Cell:
    caller: str
    app: str
    method: str
    path: str
    token: str


def cells() -> Iterator[Cell]:
    for caller, apps in CALLERS.items():
        yield from itertools.starmap(
            Cell, itertools.product((caller,), apps, METHODS, PATHS, TOKENS)
        )


async def log_in(provider: OidcProvider) -> dict[str, Token]:
    """One token of each kind, from the provider."""
    valid = await provider.token("anna", "myapp")
    expired = await provider.token("late", "myapp", exp=1)
    unsigned, _, signature = valid.rpartition(".")
    other = expired.rpartition(".")[2]
    made = {
        "valid": valid,
        "expired": expired,
        "forged": f"{unsigned}.{other}",
        "malformed": f"{unsigned}.{signature[:-9]}!{signature[-8:]}",
        "other issuer": await provider.token("anna", "myapp", "127.0.0.1"),
        "other audience": await provider.token("anna", "another"),
        "no iss": await provider.token("nobody", "myapp", iss=None),
    }
    unsound = ("expired", "forged", "malformed")
    found = {k: Token(text, claims_of(text), k not in unsound) for k, text in made.items()}
    return {"none": Token("", None), **found}


def claims_of(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


@dataclass(frozen=True)
class Expected:
    """`rules`: of each port that the request comes to, the rule that decides there, or none."""

    status: int
    rules: Mapping[str, str]


class Oracle:
    """What `explain` says about cells."""

    def __init__(self, known: Snapshot, tokens: Mapping[str, Token], *, assume: bool) -> None:
        self._explainer = Explainer(known)
        self._tokens = tokens
        self._assume = assume
        self._reached: dict[tuple[str, str], bool] = {}

    def ask(self, caller: str, callee: str, cell: Cell, claims: Any) -> Explanation:
        query = ExplainQuery(
            caller=caller,
            callee=callee,
            method=cell.method,
            path=cell.path,
            claims=claims,
            assume=self._assume,
        )
        return self._explainer.explain(query)

    def reaches(self, caller: str, app: str) -> bool:
        """Whether the caller may call the application at all: else its own proxy has no way."""
        if (caller, app) not in self._reached:
            valid = self._tokens["valid"].claims
            tried = (Cell(caller, app, m, p, "valid") for m in METHODS for p in PATHS)
            allowed = any(self.ask(caller, app, cell, valid).allowed for cell in tried)
            self._reached[caller, app] = allowed
        return self._reached[caller, app]

    def expect(self, cell: Cell) -> Expected:
        token = self._tokens[cell.token]
        rules: dict[str, str] = {}
        hops = [("inbound", cell.caller, cell.app)]
        if cell.caller == OUTSIDE:
            hops = [("gateway", "anonymous", HOST), ("inbound", GATEWAY, cell.app)]
        for edge, caller, callee in hops:
            if caller not in ("anonymous", GATEWAY) and not self.reaches(caller, callee):
                return Expected(403, rules)
            if not token.sound:  # verified nowhere: every port that verifies refuses it
                return Expected(401, {**rules, edge: NO_RULE})
            answer = self.ask(caller, callee, cell, token.claims)
            assert answer.allowed == (answer.status == 200), answer
            rules[edge] = NO_RULE if answer.rule is None else log_name(answer)
            if not answer.allowed:
                return Expected(answer.status, rules)
        return Expected(200, rules)


def log_name(answer: Explanation) -> str:
    """A rule as proxies log it, without its place in the order."""
    assert answer.rule is not None
    ref = answer.rule
    return f"2-allow/{ref.kind}/{ref.namespace}/{ref.name}/{ref.index:05}"


@dataclass
class Case:
    server: Running
    box: Host
    port: int
    company: Company
    provider: OidcProvider
    files: dict[str, str]
    probe_port: int
    ways: dict[str, Way] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    instances: list[str] = field(default_factory=list)

    async def add(self, workload: str, port: int, **fields: Any) -> None:
        namespace, _, name = workload.partition("/")
        spec = {"service": name, "namespace": namespace, "service_port": port, **fields}
        spec["uid"] = os.geteuid()
        token = await self.server.token(name, namespace=namespace)
        info = await self.box.ask("add", workload=spec, token=token)
        self.ways[workload] = Way(info)
        self.ports[workload] = info["port"]
        self.instances.append(info["instance"])

    async def apply(self, *texts: str) -> None:
        answer = await self.server.apply(*texts, wait_s=20)
        assert answer.is_success, answer.text

    def trust(self) -> ssl.SSLContext:
        """A client outside, which trusts the company and checks the name."""
        return ssl.create_default_context(cadata=self.company.pem.decode())

    async def connect(self, caller: str) -> Connection:
        if caller == OUTSIDE:
            return await Connection.open(self.port, self.trust(), HOST)
        return await Connection.open(self.ways[caller].info["outbound_port"])

    async def send(
        self,
        connection: Connection,
        cell: Cell,
        token: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        given = dict(headers or {})
        if token:
            given["authorization"] = f"Bearer {token}"
        target, name = cell.path, HOST
        if cell.caller != OUTSIDE:
            namespace, _, app = cell.app.partition("/")
            name = f"{app}.{namespace}.mesh"
            target = f"http://{name}{cell.path}"
            given["proxy-authorization"] = self.ways[cell.caller].authorization
        async with asyncio.timeout(30):
            return await connection.request(cell.method, target, given, host=name)

    async def once(self, cell: Cell, token: str, **headers: str) -> Response:
        connection = await self.connect(cell.caller)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            return await self.send(connection, cell, token, named)
        finally:
            await connection.close()

    async def until(self, status: int, cell: Cell, token: str) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await self.once(cell, token)).status == status:
                        return
                except (OSError, EOFError):
                    pass  # the listener is not open yet
                await asyncio.sleep(0.1)

    def logged(self) -> dict[str, dict[str, str]]:
        """By trace ID: of each port that saw the request, the rule that decided."""
        found: dict[str, dict[str, str]] = {}
        paths = AgentPaths(self.box.paths.runtime, self.box.paths.state)
        for instance in self.instances:
            log = paths.workload(instance).envoy_log
            for text in log.read_text(errors="replace").splitlines():
                line = json.loads(text) if text.startswith("{") else {}
                if line.get("edge") in ("inbound", "gateway") and line.get("traceparent"):
                    trace = line["traceparent"].split("-")[1]
                    rule = names.rule_name(line.get("rule") or "")
                    decided = rule not in ("[none]", names.BAD_JWT)
                    found.setdefault(trace, {})[line["edge"]] = rule if decided else NO_RULE
        return found


@asynccontextmanager
async def worked_case(path: Path) -> AsyncIterator[Case]:
    """Everything runs, every file is applied, and keys are there."""
    async with oidc_provider(path) as provider:
        loopback = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
        trusted = {"jwks_allowed": loopback, "jwks_ca_pem": provider.ca_pem}
        async with running(path, **trusted) as server, application("app") as app:
            ingress = await server.token(
                "ingress", namespace="istio-system", tags={"istio": "ingressgateway"}, gateway=True
            )
            async with host(await server.token("stranger")) as box:
                await box.start()
                made = Case(server, box, free_port(), Company(), provider, {}, free_port())
                front = await start_front(box, ingress)
                made.instances.append("istio-system/ingress/edge-1")
                try:
                    await _fill(made, app)
                    yield made
                finally:
                    await Connection.close_all()
                    assert await front.stop() == 0


async def _fill(case: Case, app: Application) -> None:
    """Workloads, then the page's documents: other ports and provider, nothing else."""
    probes = {"probe_port": case.probe_port, "probe_path": "/healthz"}
    await case.add("shop/items", app.port, **probes)
    await case.add("shop/orders", app.port)
    for caller in CALLERS:
        if caller != OUTSIDE:
            await case.add(caller, app.port)
    for name, text in page_files().items():
        placed = text.replace("number: 8443", f"number: {case.port}")
        case.files[name] = placed.replace("https://login.mycompany.de", case.provider.issuer())
    secret = case.company.secret("mytls-credential", HOST)
    await case.apply(WATCHING, secret, *case.files.values())


async def test_every_cell_is_answered_as_explain_says(tmp_path: Path) -> None:
    async with worked_case(tmp_path) as case:
        tokens = await log_in(case.provider)
        valid = tokens["valid"].text
        for caller, app in ((OUTSIDE, "shop/items"), ("sales/crm", "shop/orders")):
            await case.until(200, Cell(caller, app, "GET", "/info", "valid"), valid)
        await case.until(200, Cell("partners/billing", "shop/items", "GET", "/info", ""), valid)
        stored = Oracle(case.server.control.mirror.snapshot, tokens, assume=False)
        offline = Oracle(snapshot(case.files), tokens, assume=True)
        all_cells = list(cells())
        wanted = [stored.expect(cell) for cell in all_cells]
        assert [offline.expect(cell) for cell in all_cells] == wanted
        seen = await answers(case, all_cells, tokens)
        differ = [
            (cell, expected.status, status)
            for cell, expected, status in zip(all_cells, wanted, seen, strict=True)
            if expected.status != status
        ]
        assert differ == []
        # each kind of answer is among them, and what is open is what the page's table says
        assert {expected.status for expected in wanted} == {200, 401, 403}
        assert opened(all_cells, seen) == {
            (caller, app, *what)
            for caller, app in (
                (OUTSIDE, "shop/items"), ("partners/billing", "shop/items"),
                ("sales/crm", "shop/orders"), ("support/desk", "shop/orders"),
            )
            for what in (("GET", "/info"), ("GET", "/info/1?x=1"), ("POST", "/data"),
                         ("POST", "/x/../data"))
        }  # fmt: skip
        await rules_are_those(case, all_cells, wanted)
        await preflights(case, valid)
        await probes_and_plaintext(case)
        await without_the_rule_on_the_application(case, valid)


async def answers(case: Case, asked: list[Cell], tokens: Mapping[str, Token]) -> list[int]:
    """The status of each cell, in order; callers ask at once, each on one connection."""
    found: dict[int, int] = {}

    async def play(caller: str) -> None:
        connection = await case.connect(caller)
        for index, cell in enumerate(asked):
            if cell.caller != caller:
                continue
            trace = {"traceparent": f"00-{index + 1:032x}-{1:016x}-01"}
            answer = await case.send(connection, cell, tokens[cell.token].text, trace)
            found[index] = answer.status
            if answer.headers.get("connection") == "close":
                await connection.close()
                connection = await case.connect(caller)
        await connection.close()

    await asyncio.gather(*map(play, CALLERS))
    return [found[index] for index in range(len(asked))]


def opened(asked: list[Cell], seen: list[int]) -> set[tuple[str, str, str, str]]:
    found = [cell for cell, status in zip(asked, seen, strict=True) if status == 200]
    assert {cell.token for cell in found} == {"valid"}
    return {(cell.caller, cell.app, cell.method, cell.path) for cell in found}


async def rules_are_those(case: Case, asked: list[Cell], wanted: list[Expected]) -> None:
    """The proxies' logs name for each request the rule that `explain` names."""
    rules = {f"{index + 1:032x}": expected.rules for index, expected in enumerate(wanted)}
    async with asyncio.timeout(60):
        while True:
            logged = await asyncio.to_thread(case.logged)
            if all(expected.keys() <= logged.get(t, {}).keys() for t, expected in rules.items()):
                break
            await asyncio.sleep(0.5)  # Envoy writes its log every ten seconds
    differ = [
        (cell, expected, logged.get(trace, {}))
        for cell, (trace, expected) in zip(asked, rules.items(), strict=True)
        if logged.get(trace, {}) != expected
    ]
    assert differ == []


async def preflights(case: Case, valid: str) -> None:
    """A browser sends no token with its preflight: the gateway answers it, for the one origin."""
    asking = {"access_control_request_method": "POST", "origin": ORIGIN}
    cell = Cell(OUTSIDE, "shop/items", "OPTIONS", "/data", "none")
    answer = await case.once(cell, "", **asking)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-methods"] == "GET,POST"
    assert answer.headers["access-control-max-age"] == "86400"
    assert b"app" not in answer.body  # the application was not asked
    foreign = await case.once(cell, "", **asking | {"origin": "https://elsewhere.example"})
    assert (foreign.status, foreign.headers.get("access-control-allow-origin")) == (403, None)
    real = Cell(OUTSIDE, "shop/items", "GET", "/info", "valid")
    allowed = await case.once(real, valid, origin=ORIGIN)
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    refused = await case.once(real, "", origin=ORIGIN)
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (403, ORIGIN)


async def probes_and_plaintext(case: Case) -> None:
    """The probe's one path is open on the probe's port; nothing else is without mutual TLS."""
    for path, status in (("/healthz", 200), ("/info", 404)):
        connection = await Connection.open(case.probe_port)
        assert (await connection.request("GET", path)).status == status
        await connection.close()
    connection = await Connection.open(case.ports["shop/items"])
    try:
        async with asyncio.timeout(30):
            answer = await connection.request("GET", "/healthz")
        raise AssertionError(answer.status)
    except (OSError, EOFError):
        pass
    finally:
        await connection.close()


async def without_the_rule_on_the_application(case: Case, valid: str) -> None:
    """The token is verified at the gateway, goes on, and there is no claim: nobody gets in."""
    gone = await case.server.api.delete(
        "/v1/resources/requestauthentications/people", params={"namespace": "shop"}
    )
    assert gone.is_success, gone.text
    for caller in (OUTSIDE, "partners/billing"):
        await case.until(403, Cell(caller, "shop/items", "GET", "/info", "valid"), valid)


def alone(files: Mapping[str, str]) -> dict[str, str]:
    """The files without the application's RequestAuthentication."""
    head, separator, rest = files["shop.yaml"].partition("---\n")
    assert "kind: RequestAuthentication" in head
    assert separator
    return {**files, "shop.yaml": rest}


def test_validate_warns_of_claims_that_only_the_gateway_verifies() -> None:
    def warned(files: Mapping[str, str]) -> list[str]:
        found = check(snapshot(files))
        assert not has_errors(found)
        return [f.code for f in found if f.code == "claims-not-verified"]

    assert warned(page_files()) == []
    assert len(warned(alone(page_files()))) == 2


def test_the_page_counts_its_rules() -> None:
    found = documents(page_files())
    policies = [d for d in found if d["kind"] == "AuthorizationPolicy"]
    authentications = [d for d in found if d["kind"] == "RequestAuthentication"]
    rules = sum(len(d["spec"].get("rules", ())) for d in policies)
    token_rules = sum(len(d["spec"]["jwtRules"]) for d in authentications)
    said = f"{len(found)} documents, {rules} authorization rules, {token_rules} token rules"
    assert said in PAGE.read_text(encoding="utf-8")


def verdicts(files: Mapping[str, str]) -> list[Expected]:
    issuer = "https://login.mycompany.de"
    claims = {"iss": issuer, "aud": "myapp"}
    tokens = {"none": Token("", None), "valid": Token("", claims)}
    oracle = Oracle(snapshot(files), tokens, assume=True)
    return [oracle.expect(cell) for cell in cells() if cell.token in tokens]


def test_no_rule_of_the_page_can_go() -> None:
    """As few as possible: without any one rule, or one of its parts, an answer changes."""
    whole = verdicts(page_files())
    tried = 0
    for name, text in page_files().items():
        parts = list(yaml.safe_load_all(text))
        for index, document in enumerate(parts):
            for smaller in without_a_part(document):
                changed = [*parts[:index], smaller, *parts[index + 1 :]]
                files = {**page_files(), name: yaml.safe_dump_all(changed)}
                assert verdicts(files) != whole, smaller
                tried += 1
    assert tried >= 10


def without_a_part(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The policy without a rule; an application's without one source, operation or condition.

    The gateway's rule names its host, which its listener has by itself.
    """
    if document["kind"] != "AuthorizationPolicy":
        return
    text = json.dumps(document)
    for number, rule in enumerate(document["spec"].get("rules", ())):
        copy = json.loads(text)
        del copy["spec"]["rules"][number]
        if not copy["spec"]["rules"]:
            del copy["spec"]["rules"]
        yield copy
        for part, entries in rule.items() if "from" in rule else ():
            for index in range(len(entries)):
                copy = json.loads(text)
                del copy["spec"]["rules"][number][part][index]
                if not copy["spec"]["rules"][number][part]:
                    del copy["spec"]["rules"][number][part]
                yield copy
