"""A kernel rule that lets one user only reach some loopback ports (nftables, `meta skuid`).

One table per workload, replaced whole and removed whole: a table is a transaction. The rule stands
in the kernel, so it outlives an agent that is killed, and closes rather than opens. Needs root.
Source: nft(8), "META EXPRESSIONS" (skuid: user of the originating socket) and "REJECT STATEMENT".
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from limen.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

_TIMEOUT_S = 10.0


def require_nft() -> str:
    """The program `nft`. Raises InvalidInput (`nft-not-found`)."""
    found = shutil.which("nft", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin")
    if found is None:
        raise InvalidInput(
            "plain local ports need a kernel rule here, and there is no program nft",
            code="nft-not-found",
            hint="install nftables, or give the workload a network namespace (--netns)",
        )
    return found


def guard_ports(table: str, uid: int, ports: Iterable[int]) -> None:
    """Refuse connections over loopback to `ports` by every user but `uid`; replaces `table`.

    Raises InvalidInput (`nft-not-found`), Unavailable (`nft-failed`).
    """
    wanted = ", ".join(str(port) for port in sorted(ports))
    _load(
        f"add table inet {table}\n"
        f"delete table inet {table}\n"
        f"table inet {table} {{\n"
        f"  chain output {{\n"
        f"    type filter hook output priority filter; policy accept;\n"
        f"    ip daddr 127.0.0.0/8 tcp dport {{ {wanted} }} meta skuid != {uid}"
        " reject with tcp reset\n"
        "  }\n"
        "}\n"
    )


def remove_guard(table: str) -> None:
    """Take the rule away; it is no error if there is none. Raises like `guard_ports`."""
    _load(f"add table inet {table}\ndelete table inet {table}\n")


def _load(script: str) -> None:
    try:
        done = subprocess.run(
            [require_nft(), "-f", "-"],
            input=script,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"nft does not run: {error}", code="nft-failed") from error
    if done.returncode != 0:
        raise Unavailable(
            f"the kernel rule for local ports was refused: {done.stderr.strip()[:300]}",
            code="nft-failed",
            hint="run the agent as root, with nf_tables in the kernel; or use --netns",
        )
