"""Run every measurement in this folder, or those that are named, one after the other.

`python bench/run.py [NAME…] [--short]`. A benchmark is a file with a `main` that takes `--short`;
the others are its parts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS = (
    "dataplane",
    "propagation",
    "startup",
    "compile",
    "authz",
    "store",
    "pdp",
    "tokens",
    "user_context",
)


def main() -> int:
    """The number of benchmarks that did not finish."""
    named = [a for a in sys.argv[1:] if not a.startswith("-")]
    arguments = [a for a in sys.argv[1:] if a.startswith("-")]
    failed = 0
    for name in named or BENCHMARKS:
        start = time.monotonic()
        print(f"== {name}", flush=True)
        path = Path(__file__).with_name(f"{name}.py")
        environment = {**os.environ, "PYTHONPATH": str(path.parents[1])}
        code = subprocess.call([sys.executable, str(path), *arguments], env=environment)
        print(f"== {name}: exit {code} after {time.monotonic() - start:.1f} s", flush=True)
        failed += code != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
