import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.pki.material import DAY, NOW, control_authority, node, server

from limen.core.pki.join_token import (
    JoinToken,
    fingerprint_of,
    format_join_token,
    parse_join_token,
    verify_pinned_chain,
)
from limen.errors import InvalidInput, Untrusted

FIELDS = {
    "s": "https://limen.example:7443",
    "f": "ab" * 32,
    "i": "abcdef0123456789",
    "k": "S3cret-" + "x" * 30,
}
CONTROL = control_authority()
SERVER = server(CONTROL)
CHAIN = (SERVER, CONTROL.intermediate, CONTROL.root)
PIN = fingerprint_of(CONTROL.root)


def encode(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return "limen1." + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def refusal(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse_join_token(text)
    assert caught.value.code == "invalid-join-token"
    return str(caught.value)


def test_a_token_is_read_as_it_was_written():
    token = JoinToken("https://[::1]:7443", "0" * 64, "abcdefgh", "k" * 43)
    assert parse_join_token(format_join_token(token)) == token
    assert (token.host, token.port) == ("::1", 7443)


def test_the_secret_is_in_no_repr_and_no_error():
    token = parse_join_token(encode(FIELDS))
    assert FIELDS["k"] not in repr(token)
    assert FIELDS["k"] not in refusal(encode({**FIELDS, "f": "short"}))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 1000,
        b'{"s":"https://a","s":"https://b","f":"","i":"","k":""}',
        {},
        {**FIELDS, "x": "1"},
        {k: v for k, v in FIELDS.items() if k != "f"},
        {**FIELDS, "k": 7},
        {**FIELDS, "k": "short"},
        {**FIELDS, "f": "AB" * 32},
        {**FIELDS, "f": "ab" * 31},
        {**FIELDS, "i": "../../x"},
        {**FIELDS, "s": "http://limen.example:7443"},
        {**FIELDS, "s": "https://user:word@limen.example"},
        {**FIELDS, "s": "https://limen.example/path"},
        {**FIELDS, "s": "https://limen.example:99999"},
        {**FIELDS, "s": "https://"},
        {**FIELDS, "s": "https://a?b"},
        {**FIELDS, "s": "file:///etc/passwd"},
    ],
)
def test_malformed_tokens_are_refused(value):
    refusal(encode(value))


@pytest.mark.parametrize("text", ["", "limen1.", "limen2.e30", "limen1.!!!!", "x" * 5000])
def test_malformed_texts_are_refused(text):
    refusal(text)


@given(st.text(max_size=200))
def test_any_text_is_refused_cleanly(text):
    refusal("limen1." + text)


@pytest.mark.parametrize("host", ["limen.example", "LIMEN.example.", "127.0.0.1", "::1"])
def test_the_pinned_server_is_accepted(host):
    assert verify_pinned_chain(CHAIN, PIN, host, NOW) == CONTROL.root


def untrusted(chain, pin=PIN, host="limen.example", at=NOW) -> str:
    with pytest.raises(Untrusted) as caught:
        verify_pinned_chain(chain, pin, host, at)
    return caught.value.code


def test_another_authority_is_refused():
    other = control_authority()
    chain = (server(other), other.intermediate, other.root)
    assert untrusted(chain) == "pin-mismatch"


def test_the_pinned_root_appended_to_a_foreign_chain_is_refused():
    """Certificate verified is not the certificate used: the root is public."""
    other = control_authority()
    chain = (server(other), other.intermediate, other.root, CONTROL.root)
    assert untrusted(chain) == "certificate-untrusted"
    assert untrusted((server(other), CONTROL.intermediate, CONTROL.root)) == "certificate-untrusted"
    assert untrusted((server(other), SERVER, CONTROL.intermediate, CONTROL.root)) == (
        "certificate-untrusted"
    )


def test_a_server_of_another_host_is_refused():
    assert untrusted(CHAIN, host="evil.example") == "certificate-untrusted"
    assert untrusted(CHAIN, host="127.0.0.2") == "certificate-untrusted"
    assert untrusted(CHAIN, host="") == "certificate-untrusted"


def test_a_node_cannot_pose_as_the_server():
    assert untrusted((node(CONTROL), CONTROL.intermediate, CONTROL.root)) == "certificate-untrusted"


def test_an_expired_or_future_server_is_refused():
    assert untrusted(CHAIN, at=NOW + DAY) == "certificate-untrusted"
    assert untrusted(CHAIN, at=NOW - DAY) == "certificate-untrusted"


def test_a_chain_without_the_root_is_refused():
    assert untrusted(CHAIN[:2]) == "pin-mismatch"
    assert untrusted(()) == "pin-mismatch"


def test_the_root_alone_is_refused():
    assert untrusted((CONTROL.root,)) == "certificate-untrusted"


def test_a_wrong_pin_is_refused():
    assert untrusted(CHAIN, pin="") == "pin-mismatch"
    assert untrusted(CHAIN, pin="\u00e9" * 64) == "pin-mismatch"


def test_garbage_in_the_chain_is_refused():
    assert untrusted((b"garbage", CONTROL.intermediate, CONTROL.root)) == "certificate-untrusted"
