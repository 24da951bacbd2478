"""Secrets, guard and bootstrap: what they refuse, and that nothing leaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limen.core.envoy import names
from limen.core.envoy.bootstrap import build_bootstrap, envoy_arguments
from limen.core.envoy.guard import MIN_SECRET_CHARS, guard_resource
from limen.core.envoy.resources import to_json
from limen.core.envoy.secret import bundle_resource, svid_resource
from limen.errors import InvalidInput

GOLDEN = Path(__file__).parent / "golden"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
SECRET = "s3cret-s3cret-s3cret-s3cret"


def test_bundle_without_certificate_is_refused() -> None:
    for pem in (b"", b"\n", KEY):
        with pytest.raises(InvalidInput):
            bundle_resource(pem)


def test_svid_without_certificate_or_key_is_refused() -> None:
    for chain, key in ((b"", KEY), (CERTIFICATE, b""), (KEY, CERTIFICATE)):
        with pytest.raises(InvalidInput) as refusal:
            svid_resource(chain, key)
        assert "c2VjcmV0" not in str(refusal.value)


@pytest.mark.parametrize(
    ("user", "secret"), [("", SECRET), ("a:b", SECRET), ("a", ""), ("a", "short")]
)
def test_weak_guard_is_refused(user: str, secret: str) -> None:
    with pytest.raises(InvalidInput):
        guard_resource(user, secret)


def test_secrets_are_not_in_what_is_printed() -> None:
    assert "c2VjcmV0" not in repr(svid_resource(CERTIFICATE, KEY))
    assert "s3cret" not in repr(guard_resource("items", SECRET))


def test_resources_have_the_agreed_names() -> None:
    assert bundle_resource(CERTIFICATE).name == names.BUNDLE == "bundle"
    assert svid_resource(CERTIFICATE, KEY).name == names.SVID == "svid"
    assert guard_resource("items", SECRET).name == names.LOCAL_GUARD == "local-guard"


def test_guard_wants_the_secret_of_one_user_and_does_not_hold_it() -> None:
    config = to_json(guard_resource("items", SECRET))["typed_config"]
    assert config["authentication_header"] == "proxy-authorization"
    user, _, digest = config["users"]["inline_string"].partition(":")
    assert user == "items"
    assert digest.startswith("{SHA}")
    assert SECRET not in json.dumps(config)


def test_secret_of_the_least_length_is_taken_and_one_shorter_is_not() -> None:
    assert guard_resource("items", "s" * MIN_SECRET_CHARS)
    with pytest.raises(InvalidInput):
        guard_resource("items", "s" * (MIN_SECRET_CHARS - 1))


def bootstrap(**more: str) -> bytes:
    return build_bootstrap(
        node_id="default/items/1",
        cluster="default/items",
        ads_socket="/run/ads.sock",
        admin_socket="/run/admin.sock",
        **more,  # type: ignore[arg-type] # texts only
    )


def test_bootstrap_and_arguments_are_as_they_were(pytestconfig: pytest.Config) -> None:
    started = [json.loads(bootstrap()), *envoy_arguments("/bin/envoy", "/run/b.json")]
    text = json.dumps(started, indent=1, sort_keys=True) + "\n"
    path = GOLDEN / "bootstrap" / "bootstrap.json"
    if pytestconfig.getoption("rewrite_golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_bootstrap_is_json_without_tcp_ports() -> None:
    made = bootstrap()
    tree = json.loads(made)
    assert tree["node"] == {"id": "default/items/1", "cluster": "default/items"}
    assert tree["admin"]["address"]["pipe"] == {"path": "/run/admin.sock", "mode": 0o600}
    assert "socket_address" not in made.decode()


def test_arguments_hold_the_drain_time_and_no_secret() -> None:
    arguments = envoy_arguments("/bin/envoy", "/run/b.json")
    assert arguments[0] == "/bin/envoy"
    assert arguments[arguments.index("--drain-time-s") + 1] == "1"


def test_the_door_for_tokens_is_a_cluster_of_its_own_on_its_socket() -> None:
    tree = json.loads(bootstrap(token_socket="/run/tokens.sock"))
    found = {c["name"]: json.dumps(c) for c in tree["static_resources"]["clusters"]}
    assert sorted(found) == ["ads", "token-door"]
    assert "/run/tokens.sock" in found["token-door"]
    assert "/run/tokens.sock" not in found["ads"]
