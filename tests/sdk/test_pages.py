"""The programs in the pages for Go, Java and Node behave as the Python one, where the tools are."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.sdk.test_context import CLAIMS, headers, token

from limen.sdk.context import CONTEXT_HEADER, USER_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
MINE = {**CLAIMS, "scope": "orders.read"}
PROGRAMS = {
    "go": ("sdk-go.md", "main.go", ["go", "run", "main.go"]),
    "java": ("sdk-java.md", "Main.java", ["java", "Main.java"]),
    "node": ("sdk-node.md", "main.mjs", ["node", "main.mjs"]),
}


def program_in(page: str, name: str) -> str:
    found = re.search(
        rf"^```\w+ file={re.escape(name)}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Stock(BaseHTTPRequestHandler):
    seen: list[list[str] | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get_all(CONTEXT_HEADER))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(params=sorted(PROGRAMS))
def program(request: Any, tmp_path: Path) -> Iterator[tuple[httpx.Client, list[Any]]]:
    """The page's program, running, and what its callee has seen."""
    page, name, command = PROGRAMS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    (tmp_path / name).write_text(program_in((DOCS / page).read_text(), name))
    seen: list[Any] = []
    stock = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Stock,), {"seen": seen}))
    thread = Thread(target=stock.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(Path.home()),
        "PORT": str(port),
        "STOCK": f"http://127.0.0.1:{stock.server_port}/",
    }
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, process_group=0)
    try:
        wait_listening(port, running)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client, seen
    finally:
        os.killpg(running.pid, 15)
        running.wait()
        stock.shutdown()
        thread.join()
        stock.server_close()


def wait_listening(port: int, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the program does not listen")


def test_a_program_of_a_page_does_what_the_python_one_does(
    program: tuple[httpx.Client, list[Any]],
) -> None:
    client, seen = program
    answer = client.get("/", headers=headers(MINE))
    assert (answer.status_code, answer.text) == (200, "ann")
    assert seen == [[token(MINE)]]
    assert client.get("/").status_code == 401
    assert client.get("/", headers=headers()).status_code == 403
    one, other = headers(MINE), headers({**MINE, "sub": "root", "sub_id": None})
    doubtful = (
        one[:1],
        one[1:],
        [*one, one[0]],
        [*one, other[1]],
        [other[0], one[1]],
        [(USER_HEADER, "e30"), (CONTEXT_HEADER, "a.e30.c")],
        headers(b"{"),
        headers({**MINE, "sub_id": {"format": "iss_sub", "iss": "https://login.example"}}),
    )
    for sent in doubtful:
        assert client.get("/", headers=sent).status_code == 401
    assert len(seen) == 1
