"""Fetching key sets from a real HTTPS server: what comes back, and every way to be refused."""

from __future__ import annotations

import asyncio
import gzip
import json
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.services.jwks_provider import (
    HOST,
    Authority,
    Provider,
    answer,
    make_authority,
    providing,
    server_context,
)

from limen.adapters.judged_https import FetchRules, is_allowed, parse_url, resolve_host
from limen.adapters.jwks_fetch import fetch_key_set
from limen.errors import InvalidInput, LimenError, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
KEYS = b'{"keys":[]}'
ISSUER_PATH = "/.well-known/openid-configuration"


class Names:
    """A resolver that remembers what it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses or ("127.0.0.1",)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return list(self.addresses)


class Here:
    """A provider, and what a client needs to ask it."""

    def __init__(self, provider: Provider, authority: Authority) -> None:
        self.provider = provider
        self.authority = authority
        self.names: Any = Names()

    def rules(self, **changes: Any) -> FetchRules:
        given = {"allowed": LOOPBACK, "ca_pem": self.authority.pem, "timeout_s": 5.0, **changes}
        return FetchRules(**given)

    async def fetch(self, uri: str = "", *, issuer: str = "", **changes: Any) -> bytes:
        address = uri or ("" if issuer else self.provider.url())
        return await fetch_key_set(issuer, address, self.rules(**changes), resolve=self.names)

    async def refused(self, uri: str = "", *, issuer: str = "", **changes: Any) -> str:
        with pytest.raises(LimenError) as caught:
            await self.fetch(uri, issuer=issuer, **changes)
        assert caught.value.hint
        return caught.value.code


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    authority = make_authority()
    context = server_context(authority, tmp_path, HOST, "127.0.0.1")
    async with providing(context) as provider:
        provider.pages["/jwks"] = answer(KEYS)
        yield Here(provider, authority)


# --- what works


async def test_a_key_set_comes_over_https(here: Here) -> None:
    assert await here.fetch() == KEYS
    (head,) = here.provider.requests
    assert head.startswith("GET /jwks HTTP/1.1\r\n")
    assert f"host: {HOST}:{here.provider.port}\r\n" in head.lower()
    assert "accept-encoding: identity\r\n" in head.lower()
    assert "authorization" not in head.lower()
    assert "cookie" not in head.lower()


async def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(
    here: Here, tmp_path: Path
) -> None:
    other = server_context(here.authority, tmp_path, "other.example")
    async with providing(other) as provider:
        assert await here.refused(provider.url()) == "fetch-certificate"
        assert provider.requests == []


async def test_an_address_as_host_is_asked_by_its_address(here: Here) -> None:
    uri = here.provider.url(host="127.0.0.1")
    assert await fetch_key_set("", uri, here.rules()) == KEYS


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/jwk-set+json; charset=utf-8",
        "text/plain",
        "APPLICATION/JSON",
    ],
)
async def test_usual_content_types_are_accepted(here: Here, kind: str) -> None:
    here.provider.pages["/jwks"] = answer(KEYS, headers=f"content-type: {kind}\r\n")
    assert await here.fetch() == KEYS


async def test_a_query_is_kept(here: Here) -> None:
    here.provider.pages["/jwks?p=b2c_1"] = answer(KEYS)
    assert await here.fetch(here.provider.url("/jwks?p=b2c_1")) == KEYS


async def test_the_next_address_is_tried_when_one_is_dead(here: Here) -> None:
    here.names = Names("127.0.0.2", "127.0.0.1")
    async with providing(None, "127.0.0.2") as other:
        assert other.port != here.provider.port
        assert await here.fetch() == KEYS


# --- what the server must not be made to ask


REFUSED = (
    "127.0.0.1", "127.255.0.1", "0.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "203.0.113.5", "192.88.99.1",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1", "2002:a00:1::1",
    "2001:0:7f00:1::", "100::1", "4000::1",
)  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
async def test_an_address_that_is_not_public_is_refused(here: Here, address: str) -> None:
    """JWKS address used for SSRF, in every form of an address."""
    assert not is_allowed(ip_address(address), ())
    here.names = Names(address)
    assert await here.refused(allowed=()) == "fetch-address"
    assert here.provider.connections == 0


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_a_public_address_may_be_asked(address: str) -> None:
    assert is_allowed(ip_address(address), ())


def test_an_allowed_network_is_allowed_in_its_mapped_form_and_nothing_else_is() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert is_allowed(ip_address(address), allowed)
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "127.0.0.1", "fe80::1", "::10.1.2.3"):
        assert not is_allowed(ip_address(address), allowed)


async def test_one_bad_address_among_good_ones_spoils_them_all(here: Here) -> None:
    here.names = Names("127.0.0.1", "10.0.0.1")
    assert await here.refused() == "fetch-address"
    assert here.provider.connections == 0


async def test_a_name_is_resolved_once_and_the_judged_address_is_asked(here: Here) -> None:
    """DNS rebinding: a second answer, to an address that is not allowed, is never asked for."""
    answers = iter((["127.0.0.1"], ["10.0.0.1"]))
    asked = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    here.names = rebinding
    assert await here.fetch() == KEYS
    assert asked == [HOST]


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example/jwks", "file:///etc/passwd", "ftp://keys.example/", "keys.example",
        "https://", "https:///jwks", "https://user@keys.example/", "https://a:b@keys.example/",
        "https://keys.example/#x", "https://keys.example:0/", "https://keys.example:65536/",
        "https://keys.example:x/", "https://keys.example\\@evil.example/", "https://keys.example /",
        " https://keys.example/", "https://keys.example/\r\nHost: x", "https://keys.example/\u00e9",
        "https://k\u00e9ys.example/", "https://keys.example./", "https://-keys.example/",
        "https://keys.example/" + "x" * 3000, "HTTPS://keys.example/", "unix:///run/x.sock", "",
        "https://[::1", "https://[::1%25lo]/", "gopher://127.0.0.1:70/x", "https:keys.example",
    ],
)  # fmt: skip
def test_a_url_that_is_not_plain_https_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_url(url)
    assert caught.value.code == "fetch-url"


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "017700000001", "localhost"])
async def test_odd_spellings_of_loopback_are_judged_by_what_they_mean(
    here: Here, host: str
) -> None:
    with pytest.raises((Untrusted, Unavailable)) as caught:
        await fetch_key_set("", here.provider.url(host=host), here.rules(allowed=()))
    assert caught.value.code in ("fetch-address", "fetch-failed")
    assert here.provider.connections == 0


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 Other", "307 T", "308 P", "304 N"]
)
async def test_a_redirect_is_not_followed(here: Here, status: str) -> None:
    headers = f"location: {here.provider.url('/other')}\r\n"
    here.provider.pages["/jwks"] = answer(KEYS, status=status, headers=headers)
    here.provider.pages["/other"] = answer(KEYS)
    assert await here.refused() == "fetch-redirected"
    assert len(here.provider.requests) == 1


async def test_proxies_of_the_environment_are_not_used(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with providing(None) as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await here.fetch() == KEYS
        assert proxy.connections == 0


# --- servers that are slow, huge or lying


async def test_a_certificate_of_an_unknown_authority_is_refused(here: Here) -> None:
    assert await here.refused(ca_pem="") == "fetch-certificate"
    assert await here.refused(ca_pem=make_authority().pem) == "fetch-certificate"
    assert here.provider.requests == []


async def test_an_expired_certificate_is_refused(here: Here, tmp_path: Path) -> None:
    async with providing(server_context(here.authority, tmp_path, HOST, days=-1)) as provider:
        assert await here.refused(provider.url()) == "fetch-certificate"


async def test_an_authority_that_is_not_pem_is_refused(here: Here) -> None:
    assert await here.refused(ca_pem="no certificate") == "fetch-ca"


async def test_a_server_without_tls_is_refused(here: Here) -> None:
    async with providing(None) as provider:
        assert await here.refused(provider.url(), timeout_s=0.3) == "fetch-timeout"
        assert provider.requests == []


async def test_nobody_there_is_unavailable(here: Here) -> None:
    async with providing(None) as provider:
        gone = provider.url()
    assert await here.refused(gone) == "fetch-failed"


async def test_a_name_without_address_is_unavailable(here: Here) -> None:
    async def nothing(host: str, port: int) -> list[str]:
        raise OSError

    here.names = nothing
    assert await here.refused() == "fetch-failed"
    assert await resolve_host("127.0.0.1", 443) == ["127.0.0.1"]


async def test_a_dripping_server_is_cut_by_the_total_time(here: Here) -> None:
    """Each byte comes soon enough for any timeout between bytes."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"")[:-21] + b"content-length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    here.provider.behave = drip
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await here.refused(timeout_s=0.4) == "fetch-timeout"
    assert loop.time() - started < 3
    await asyncio.wait_for(here.provider.gone.wait(), 5)


async def test_a_server_that_drips_its_head_is_cut_too(here: Here) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-a: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    here.provider.behave = drip
    assert await here.refused(timeout_s=0.4) == "fetch-timeout"


async def test_a_silent_server_is_cut(here: Here) -> None:
    async def wait(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    here.provider.behave = wait
    assert await here.refused(timeout_s=0.3) == "fetch-timeout"


async def test_a_slow_resolver_is_cut(here: Here) -> None:
    async def wait(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    here.names = wait
    assert await here.refused(timeout_s=0.2) == "fetch-timeout"


async def test_a_huge_answer_is_refused_before_it_is_read(here: Here) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            writer.write(b"[" * 65536)
            sent += 65536
            await writer.drain()
            await asyncio.sleep(0)  # or a broken connection is never told

    here.provider.behave = flood
    assert await here.refused() == "fetch-too-large"
    await asyncio.wait_for(here.provider.gone.wait(), 5)
    assert sent < 16 * 1024 * 1024


async def test_a_huge_head_is_refused(here: Here) -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx-fill: ")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            await asyncio.sleep(0)  # as above

    here.provider.behave = flood
    assert await here.refused() == "fetch-failed"


async def test_a_compressed_answer_is_refused(here: Here) -> None:
    """A bomb would pass the bound on bytes."""
    bomb = gzip.compress(b" " * 50_000_000)
    here.provider.pages["/jwks"] = answer(bomb, headers="content-encoding: gzip\r\n")
    assert await here.refused() == "fetch-content"


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream", "image/png", "json", ""])
async def test_another_content_type_is_refused(here: Here, kind: str) -> None:
    here.provider.pages["/jwks"] = answer(KEYS, headers=f"content-type: {kind}\r\n")
    assert await here.refused() == "fetch-content"


@pytest.mark.parametrize("status", ["204 No", "206 Part", "401 No", "404 No", "429 Busy", "500 Oh"])
async def test_another_status_is_refused(here: Here, status: str) -> None:
    here.provider.pages["/jwks"] = answer(b"", status=status)
    assert await here.refused() == "fetch-status"


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0" * 50, b"HTTP/x 200 OK\r\n\r\n", b"hello\r\n\r\n", answer(KEYS)[:-3],
     b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"],
)  # fmt: skip
async def test_what_is_not_whole_http_is_refused(here: Here, raw: bytes) -> None:
    here.provider.pages["/jwks"] = raw
    assert await here.refused() == "fetch-failed"


# --- discovery


def metadata(here: Here, **changes: Any) -> bytes:
    document = {"issuer": issuer(here), "jwks_uri": here.provider.url(), **changes}
    return answer(json.dumps(document).encode())


def issuer(here: Here) -> str:
    return here.provider.url("/realms/shop")


async def test_the_issuers_metadata_leads_to_its_keys(here: Here) -> None:
    here.provider.pages["/realms/shop" + ISSUER_PATH] = metadata(here)
    assert await here.fetch(issuer=issuer(here)) == KEYS
    assert here.names.asked == [HOST, HOST]


async def test_a_final_slash_of_the_issuer_is_part_of_its_name(here: Here) -> None:
    """OpenID Connect Discovery 1.0, section 4.1: left out in the address, kept in the name."""
    name = issuer(here) + "/"
    here.provider.pages["/realms/shop" + ISSUER_PATH] = metadata(here, issuer=name)
    assert await here.fetch(issuer=name) == KEYS
    assert await here.refused(issuer=issuer(here)) == "oidc-issuer"


@pytest.mark.parametrize(
    "named", ["", "https://evil.example", None, 1, ["https://keys.example"], "HTTPS://KEYS.EXAMPLE"]
)
async def test_metadata_of_another_issuer_is_refused(here: Here, named: object) -> None:
    here.provider.pages["/realms/shop" + ISSUER_PATH] = metadata(here, issuer=named)
    assert await here.refused(issuer=issuer(here)) == "oidc-issuer"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://keys.example/jwks", "fetch-url"),
        ("file:///etc/passwd", "fetch-url"),
        ("", "fetch-url"),
        ("/jwks", "fetch-url"),
        (None, "oidc-metadata"),
        (["https://keys.example/jwks"], "oidc-metadata"),
    ],
)
async def test_the_key_sets_address_in_metadata_obeys_the_same_rules(
    here: Here, uri: object, code: str
) -> None:
    here.provider.pages["/realms/shop" + ISSUER_PATH] = metadata(here, jwks_uri=uri)
    assert await here.refused(issuer=issuer(here)) == code


async def test_metadata_that_leads_to_an_inner_address_is_refused(here: Here) -> None:
    inner = "https://inner.example/jwks"
    here.provider.pages["/realms/shop" + ISSUER_PATH] = metadata(here, jwks_uri=inner)

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1" if host == HOST else "169.254.169.254"]

    here.names = resolve
    assert await here.refused(issuer=issuer(here)) == "fetch-address"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"issuer":1,"issuer":2}', b"<html>"])
async def test_metadata_that_is_not_strict_json_is_refused(here: Here, body: bytes) -> None:
    here.provider.pages["/realms/shop" + ISSUER_PATH] = answer(body)
    assert await here.refused(issuer=issuer(here)) == "oidc-metadata"


async def test_huge_metadata_is_refused(here: Here) -> None:
    here.provider.pages["/realms/shop" + ISSUER_PATH] = answer(b" " * 70_000)
    assert await here.refused(issuer=issuer(here)) == "fetch-too-large"


@pytest.mark.parametrize("name", ["", "shop", "http://keys.example", "https://keys.example?x"])
async def test_an_issuer_that_is_no_https_url_has_no_metadata(here: Here, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await fetch_key_set(name, "", here.rules(), resolve=here.names)
    assert caught.value.code == "fetch-url"


async def test_one_time_limit_covers_discovery_and_the_keys(here: Here) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.25)
        metadata_asked = "openid" in here.provider.requests[-1]
        writer.write(metadata(here) if metadata_asked else answer(KEYS))
        await writer.drain()

    here.provider.behave = slow
    assert await here.refused(issuer=issuer(here), timeout_s=0.4) == "fetch-timeout"
