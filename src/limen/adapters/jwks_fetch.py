"""Fetch a key set, or an issuer's metadata, over HTTPS from an address that may be asked.

How an address is judged and asked stands in `judged_https`. OpenID Connect Discovery 1.0, section
4, is the one way from an issuer to its key set.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from limen.adapters.judged_https import FetchRules, ask, refused_url, resolve_host
from limen.core.tokens.encoding import Malformed, parse_json
from limen.errors import InvalidInput, Unavailable, Untrusted

if TYPE_CHECKING:
    from limen.adapters.judged_https import Resolve

MAX_METADATA_BYTES = 64 * 1024
WELL_KNOWN = "/.well-known/openid-configuration"


async def fetch_key_set(
    issuer: str,
    jwks_uri: str,
    rules: FetchRules,
    *,
    resolve: Resolve = resolve_host,
) -> bytes:
    """The bytes at `jwks_uri`; if that is empty, of the key set that `issuer`'s metadata names.

    Not parsed: `core.tokens.jwks.parse_jwks` judges them. Raises InvalidInput (`fetch-url`,
    `fetch-content`, `fetch-too-large`, `oidc-metadata`), Untrusted (`fetch-address`,
    `fetch-redirected`, `fetch-certificate`, `oidc-issuer`), Unavailable (`fetch-failed`,
    `fetch-timeout`, `fetch-status`).
    """
    try:
        async with asyncio.timeout(rules.timeout_s):
            uri = jwks_uri or await _discover(issuer, rules, resolve)
            return await ask(uri, rules, rules.max_bytes, resolve)
    except TimeoutError:
        raise Unavailable(
            f"the key set did not come within {rules.timeout_s:g} s",
            code="fetch-timeout",
            hint="look whether the provider is up and reachable from the server",
        ) from None


async def _discover(
    issuer: str,
    rules: FetchRules,
    resolve: Resolve,
) -> str:
    """`jwks_uri` of the issuer's metadata, whose `issuer` is this one exactly."""
    if "?" in issuer:
        raise refused_url(issuer, "an issuer has no query")
    url = issuer.removesuffix("/") + WELL_KNOWN
    raw = await ask(url, rules, MAX_METADATA_BYTES, resolve)
    try:
        metadata = parse_json(raw, max_depth=8, max_items=4096)
    except Malformed as error:
        raise _bad_metadata(str(error)) from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("jwks_uri"), str):
        raise _bad_metadata("it names no jwks_uri")
    if metadata.get("issuer") != issuer:
        raise Untrusted(
            "the issuer's metadata is of another issuer",
            code="oidc-issuer",
            hint="write the issuer exactly as its metadata has it, final slash and case included",
        )
    return str(metadata["jwks_uri"])


def _bad_metadata(why: str) -> InvalidInput:
    return InvalidInput(
        f"the issuer's metadata cannot be used: {why}",
        code="oidc-metadata",
        hint="the provider has to mend it; or name the key set's address in jwksUri",
    )
