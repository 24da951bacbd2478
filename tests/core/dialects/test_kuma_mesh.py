"""Mesh."""

from __future__ import annotations

import pytest
from tests.core.dialects.documents import MESH, codes, findings, one, read

from limen.core.model.mesh import BuiltinAuthority, Mesh

BACKENDS = "    backends:\n    - name: ca-1\n      type: builtin\n"
FULL = (
    MESH
    + """\
      mode: STRICT
      dpCert:
        rotation:
          expiration: 1d12h
        requestTimeout: 1.5s
      conf:
        caCert:
          RSAbits: 4096
          expiration: 2y
  networking: {outbound: {passthrough: false}}
  skipCreatingInitialPolicies: ['*']
"""
)


def test_every_honoured_field_is_read() -> None:
    assert one(FULL).spec == Mesh(
        "default",
        mtls_enabled=True,
        authority=BuiltinAuthority(
            name="ca-1",
            leaf_lifetime_s=36 * 3600,
            ca_rsa_bits=4096,
            ca_lifetime_s=2 * 365 * 86400,
            request_timeout_s=1.5,
        ),
    )


@pytest.mark.parametrize(
    "text",
    [
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: m}}",
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: m}, spec: {}}",
        "{type: Mesh, name: m}",
        "{type: Mesh, name: m, creationTime: '2024-01-01T00:00:00Z', modificationTime: '1'}",
    ],
)
def test_mutual_tls_is_on_unless_turned_off(text: str) -> None:
    assert one(text).spec == Mesh("m")
    assert one(text).key.mesh == "m"


@pytest.mark.parametrize("backends", ["", BACKENDS])
def test_mutual_tls_is_turned_off_in_so_many_words(backends: str) -> None:
    text = MESH.replace(BACKENDS, backends).replace("enabledBackend: ca-1", 'enabledBackend: ""')
    assert one(text).spec == Mesh(
        "default", mtls_enabled=False, authority=BuiltinAuthority("ca-1" if backends else "builtin")
    )


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        ("    enabledBackend: ca-1\n", "", "missing-field", "/spec/mtls"),
        ("enabledBackend: ca-1", "enabledBackend: ca-2", "dangling-reference",
         "/spec/mtls/enabledBackend"),
        (BACKENDS, "", "dangling-reference", "/spec/mtls/enabledBackend"),
        (BACKENDS, "    backends: []\n", "empty-value", "/spec/mtls/backends"),
        ("name: ca-1\n", "name: ca-1\n      mode: PERMISSIVE\n", "refused-value",
         "/spec/mtls/backends/0/mode"),
        ("name: ca-1\n", "name: ca-1\n      mode: strict\n", "unknown-value",
         "/spec/mtls/backends/0/mode"),
        ("name: ca-1\n", "name: ca-1\n      mode: 0\n", "wrong-type", "/spec/mtls/backends/0/mode"),
        ("type: builtin", "type: provided", "refused-value", "/spec/mtls/backends/0/type"),
        ("type: builtin", "type: vault", "refused-value", "/spec/mtls/backends/0/type"),
        ("type: builtin", "type: nonsense", "unknown-value", "/spec/mtls/backends/0/type"),
        ("      type: builtin\n", "", "missing-field", "/spec/mtls/backends/0"),
        ("    enabledBackend", "    skipValidation: true\n    enabledBackend", "refused-value",
         "/spec/mtls/skipValidation"),
    ],
)  # fmt: skip
def test_bad_mutual_tls_is_refused(old: str, new: str, code: str, path: str) -> None:
    text = MESH.replace(old, new, 1)
    assert text != MESH
    assert (path, code) in [(p, c) for _, p, c in findings(text)]
    assert not read(text)[0]


def test_a_refused_backend_type_is_one_finding_whatever_its_settings() -> None:
    text = MESH.replace(
        "type: builtin", "type: provided\n      conf: {cert: {secret: a}, key: {secret: b}}"
    )
    assert codes(text) == ["refused-value"]


@pytest.mark.parametrize(
    ("extra", "codes_"),
    [
        ("- name: ca-1\n      type: builtin", ["duplicate-name", "refused-value"]),
        ("- name: ca-2\n      type: builtin", ["refused-value"]),
    ],
)
def test_several_backends_are_refused(extra: str, codes_: list[str]) -> None:
    assert codes(f"{MESH}    {extra}\n") == codes_


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("dpCert: {rotation: {expiration: 24}}", "wrong-type"),
        ("dpCert: {rotation: {expiration: '24'}}", "bad-duration"),
        ("dpCert: {rotation: {expiration: ''}}", "bad-duration"),
        ("dpCert: {rotation: {expiration: 1h 30m}}", "bad-duration"),
        ("dpCert: {rotation: {expiration: -1h}}", "bad-duration"),
        ("dpCert: {rotation: {expiration: 0s}}", "out-of-range"),
        ("dpCert: {rotation: {expiration: 100y}}", "out-of-range"),
        ("dpCert: {rotation: {expiration: 99999999999999999999y}}", "out-of-range"),
        ("dpCert: {rotaton: {expiration: 1h}}", "unknown-field"),
        ("dpCert: {rotation: {expiration: 1h, foo: 1}}", "unknown-field"),
        ("dpCert: {requestTimeout: 0s}", "out-of-range"),
        ("dpCert: [a]", "wrong-type"),
        ("conf: {caCert: {RSAbits: 1024}}", "out-of-range"),
        ("conf: {caCert: {RSAbits: '2048'}}", "wrong-type"),
        ("conf: {caCert: {RSAbits: true}}", "wrong-type"),
        ("conf: {caCert: {RSAbits: 2048.0}}", "wrong-type"),
        ("conf: {caCert: {expiration: 1m}}", "out-of-range"),
        ("conf: {caCert: {expiration: 1h}}", "out-of-range"),
        ("conf: {cert: {secret: a}}", "unknown-field"),
        ("rootChain: {requestTimeout: 1s}", "refused-field"),
    ],
)
def test_bad_settings_of_the_authority_are_refused(setting: str, code: str) -> None:
    text = f"{MESH}      {setting}\n"
    assert codes(text) == [code]
    assert not read(text)[0]


@pytest.mark.parametrize(
    "field",
    ["tracing", "logging", "metrics", "routing", "constraints", "meshServices"],
)
def test_what_is_not_honoured_is_refused_by_name(field: str) -> None:
    line = len(MESH.splitlines()) + 1
    assert findings(f"{MESH}  {field}: {{a: b}}\n") == [(line, f"/spec/{field}", "refused-field")]
    assert findings(f"type: Mesh\nname: m\n{field}: {{a: b}}\n") == [
        (3, f"/{field}", "refused-field")
    ]


def test_passthrough_is_refused() -> None:
    assert codes(f"{MESH}  networking: {{outbound: {{passthrough: true}}}}\n") == ["refused-value"]


def test_all_findings_come_at_once_with_file_line_path_code_and_hint() -> None:
    text = (
        MESH.replace("name: default", "name: Default").replace("builtin", "bultin") + "  foo: 1\n"
    )
    _, diagnostics = read(text)
    assert [(d.line, d.path, d.code) for d in diagnostics] == [
        (4, "/metadata/name", "invalid-name"),
        (10, "/spec/mtls/backends/0/type", "unknown-value"),
        (11, "/spec/foo", "unknown-field"),
    ]
    assert str(diagnostics[1]) == (
        "f.yaml:10: /spec/mtls/backends/0/type: unknown-value: 'bultin' is not one of: builtin "
        "(did you mean builtin?)"
    )
