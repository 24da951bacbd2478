"""The independent provider and clients work: what other tests of user tokens stand on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.e2e.openid_harness import OpenIdProvider, node_parts, verify_with_jose

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_person_logs_in_and_the_app_holds_an_opaque_token(tmp_path: Path) -> None:
    await asyncio.to_thread(node_parts)
    async with OpenIdProvider(tmp_path) as provider:
        tokens = await provider.log_in("alice")
        assert "." not in tokens["access_token"]
        told = await provider.introspect(tokens["access_token"])
        assert told["active"] is True
        assert (told["sub"], told["aud"], told["scope"]) == (
            "alice",
            provider.audience,
            "orders.read",
        )
        await provider.revoke(tokens["access_token"])
        assert await provider.introspect(tokens["access_token"]) == {"active": False}


async def test_a_machine_is_itself(tmp_path: Path) -> None:
    async with OpenIdProvider(tmp_path) as provider:
        tokens = await provider.as_machine()
        told = await provider.introspect(tokens["access_token"])
        assert told["active"] is True
        assert told["client_id"] == "billing"


async def test_keys_change_under_one_address(tmp_path: Path) -> None:
    async with OpenIdProvider(tmp_path) as provider:
        tokens = await provider.log_in("alice")
        asked = {
            "jwksUri": provider.issuer + "/jwks",
            "token": tokens["id_token"],
            "issuer": provider.issuer,
            "audience": "web-app",
            "algorithms": ["ES256"],
        }
        status, answer = await verify_with_jose(provider.ca_file, **asked)
        assert status == 0, answer
        assert answer["payload"]["sub"] == "alice"
        await provider.rotate_keys()
        status, answer = await verify_with_jose(provider.ca_file, **asked)
        assert (status, answer) == (1, {"refused": "ERR_JWKS_NO_MATCHING_KEY"})
        await provider.stop()
        with pytest.raises(httpx.ConnectError):
            await provider.introspect(tokens["access_token"])
