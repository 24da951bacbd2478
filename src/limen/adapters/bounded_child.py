"""A question to a module of ours in a process that may die of it: one JSON document in, one out.

For what reads others' policies: nothing in a process bounds work, memory or recursion as well as
its end does.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

MAX_MEMORY_BYTES = 2 * 1024**3
QUIET = {"RUST_BACKTRACE": "0", "RUST_LIB_BACKTRACE": "0"}
"""Of the environment: an engine that ends the process tells nobody where."""


def ask_child(module: str, job: dict[str, Any], deadline_s: float) -> Any:
    """What `python -m module` answers; None: it died, or did not answer in time."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps({**job, "cpu_s": max(1, int(deadline_s))}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=deadline_s,
            check=False,
            env={**os.environ, **QUIET},
        )
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode != 0 else json.loads(done.stdout)


def read_job() -> dict[str, Any]:
    """In the child: what is asked. From here on its processor time and memory are bounded."""
    job: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_s"], job["cpu_s"]))
    bound_memory(MAX_MEMORY_BYTES)
    return job


def bound_memory(limit_bytes: int) -> None:
    """This process takes no more address space, and leaves no core when it ends of that."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
