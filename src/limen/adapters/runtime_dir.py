"""Directories of an agent: where they are, how they are made, what they are mounted on.

The runtime directory holds sockets, logs and what must not survive a reboot; it should be tmpfs.
The state directory holds the node's certificate and key and the last accepted configuration.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from limen.errors import InvalidInput, Unavailable

MAX_SOCKET_PATH = 107
"""`sun_path` holds 108 bytes with the closing NUL (unix(7))."""


@dataclass(frozen=True, slots=True)
class AgentPaths:
    """Every file of one agent (one mesh on this host)."""

    runtime: Path
    state: Path

    @property
    def control_socket(self) -> Path:
        """JSON lines, same uid or root."""
        return self.runtime / "agent.sock"

    @property
    def workload_socket(self) -> Path:
        """SPIFFE Workload API."""
        return self.runtime / "workload.sock"

    @property
    def lock(self) -> Path:
        """Held by the living agent."""
        return self.runtime / "agent.lock"

    @property
    def log(self) -> Path:
        """Log of an agent that was started in the background."""
        return self.runtime / "agent.log"

    @property
    def sealed(self) -> Path:
        """Identities for a restarted agent on the same boot."""
        return self.runtime / "identities.sealed"

    @property
    def seal_key(self) -> Path:
        """Key of the sealed file; deliberately in the other directory."""
        return self.state / "seal.key"

    @property
    def node(self) -> Path:
        """Certificate, key and addresses of this node, 0600."""
        return self.state / "node.json"

    @property
    def workloads(self) -> Path:
        """A directory for each instance."""
        return self.runtime / "w"

    @property
    def kept_logs(self) -> Path:
        """Logs of instances that have ended."""
        return self.runtime / "logs"

    def workload(self, name: str) -> WorkloadPaths:
        """Files of one instance; the directory's name is short because socket paths are."""
        slug = hashlib.sha256(name.encode()).hexdigest()[:10]
        return WorkloadPaths(self.workloads / slug, self.state / f"accepted-{slug}.json")


@dataclass(frozen=True, slots=True)
class WorkloadPaths:
    """Files of one instance. `private` is the agent's alone, `out` belongs to the workload."""

    root: Path
    accepted: Path

    @property
    def private(self) -> Path:
        """0700, the agent's."""
        return self.root / "p"

    @property
    def out(self) -> Path:
        """0700, owned by the workload's uid."""
        return self.root / "o"

    @property
    def ads_socket(self) -> Path:
        """Where Envoy finds its configuration."""
        return self.private / "ads.sock"

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface."""
        return self.private / "admin.sock"

    @property
    def api_socket(self) -> Path:
        """The Workload API of this workload alone; callers come through the relay."""
        return self.private / "api.sock"

    @property
    def door_socket(self) -> Path:
        """Where the workload's Envoy asks for tokens."""
        return self.private / "door.sock"

    @property
    def token_socket(self) -> Path:
        """Where the workload itself asks for tokens."""
        return self.out / "token.sock"

    @property
    def outbound_socket(self) -> Path:
        """The workload's way out."""
        return self.out / "outbound.sock"

    @property
    def pdp_socket(self) -> Path:
        """Where Envoy asks the decision point."""
        return self.private / "pdp.sock"

    @property
    def pdp_log(self) -> Path:
        """What the decision point says, obligations to log among it."""
        return self.private / "pdp.log"

    @property
    def pdp_record(self) -> Path:
        """Pid and start time of the running decision point."""
        return self.private / "pdp.json"

    @property
    def sources(self) -> Path:
        """Files that attribute sources name, in a directory for each namespace."""
        return self.accepted.parent / "sources"

    @property
    def envoy_log(self) -> Path:
        """Envoy's log, rotated by the agent."""
        return self.private / "envoy.log"

    @property
    def envoy_record(self) -> Path:
        """Pid and start time of the running Envoy."""
        return self.private / "envoy.json"


def default_runtime(mesh: str) -> Path:
    """`$LIMEN_RUNTIME`, `/run/limen` for root, `$XDG_RUNTIME_DIR/limen`, `/dev/shm/limen-UID`."""
    if chosen := os.environ.get("LIMEN_RUNTIME"):
        return Path(chosen) / mesh
    if os.geteuid() == 0:
        return Path("/run/limen") / mesh
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(own) / "limen" / mesh
    shared = Path("/dev/shm")  # noqa: S108 - a 0700 directory of our own is made and checked there
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return root / f"limen-{os.geteuid()}" / mesh


def default_state(mesh: str) -> Path:
    """`$LIMEN_STATE`, `/var/lib/limen/agent` for root, else `$XDG_STATE_HOME/limen`."""
    if chosen := os.environ.get("LIMEN_STATE"):
        return Path(chosen) / mesh
    if os.geteuid() == 0:
        return Path("/var/lib/limen/agent") / mesh
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "limen" / mesh


def make_directory(path: Path, mode: int = 0o700, owner: int | None = None) -> None:
    """Make `path` with exactly `mode`; refuse a symbolic link or somebody else's directory.

    Raises Unavailable (cannot be made) or InvalidInput (code `unsafe-directory`).
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise Unavailable(f"cannot make {path}: {error.strerror}") from error
    wanted = os.geteuid() if owner is None else owner
    ours = {os.geteuid(), wanted}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
        raise InvalidInput(
            f"{path} is not a directory of this user",
            code="unsafe-directory",
            hint="remove it or choose another with --runtime or --state",
        )
    path.chmod(mode)
    if found.st_uid != wanted:
        os.chown(path, wanted, -1)


def require_short(path: Path) -> Path:
    """Return `path` if a Unix socket can have it. Raises InvalidInput (`socket-path-too-long`)."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise InvalidInput(
            f"the socket path {path} has {len(os.fsencode(path))} bytes, {MAX_SOCKET_PATH} at most",
            code="socket-path-too-long",
            hint="choose a shorter directory with --runtime",
        )
    return path


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`, all or nothing, durable. Raises Unavailable (disk full, ...)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Unavailable(f"cannot write {path}: {error.strerror}") from error


def read_boot_id() -> str:
    """The kernel's random id of this boot, "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def is_tmpfs(path: Path) -> bool:
    """Whether `path` lies on tmpfs or ramfs, by the longest mount point above it."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    target = str(path.resolve())
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind in {"tmpfs", "ramfs"}
