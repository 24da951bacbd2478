"""`limen server run` with its token service inside, and a token service as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMEN = [sys.executable, "-m", "limen.cli.main"]


@contextmanager
def started(root: Path, last: str, *arguments: str) -> Iterator[dict[str, str]]:
    """A process; what it printed, by first word, up to the line that begins with `last`."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(root / "config")}
    process = subprocess.Popen(
        [*LIMEN, "server", "run", *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    said: dict[str, str] = {}
    try:
        while last not in said:
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            first, _, rest = line.strip().partition(" ")
            said[first] = rest.strip()
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()


def jwks(url: str, ca_pem: str) -> list[str]:
    context = ssl.create_default_context(cadata=ca_pem)
    answer = httpx.get(f"{url}/jwks", verify=context, trust_env=False, timeout=30)
    return [key["kid"] for key in answer.json()["keys"]]


def test_each_token_service_has_a_key_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    any_port = ("--api", "127.0.0.1:0", "--node", "127.0.0.1:0")
    data, own = tmp_path / "server", tmp_path / "tokens"
    with started(tmp_path, "try", "--data", str(data), *any_port) as server:
        client = json.loads((data / "client.json").read_text())
        inside = jwks(server["tokens"], client["ca_pem"])
        role = tmp_path / "role.json"
        names = [part for n in ("127.0.0.1", "localhost", "::1") for part in ("--name", n)]
        made = subprocess.run(
            [*LIMEN, "server", "add-role", "apart", *names, "-o", str(role),
             "--config", str(data / "client.json")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert json.loads(role.read_text())["token"] not in made.stdout + made.stderr
        assert role.stat().st_mode & 0o077 == 0
        apart = ("--role", "tokens", "--config", str(role), "--data", str(own),
                 "--tokens", "127.0.0.1:0", "--issuer", "https://tokens.example")  # fmt: skip
        keys = []
        for _ in range(2):
            with started(tmp_path, "issuer", *apart) as tokens:
                assert tokens["issuer"] == "https://tokens.example"
                keys.append(jwks(tokens["tokens"], client["ca_pem"]))
        assert keys[0] == keys[1] != inside
