"""The server's own Prometheus registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """All measurements of one server. No label ever holds a value that a client chose."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.streams = Gauge("limen_streams", "Open discovery streams", registry=own)
        self.compile_s = Histogram(
            "limen_compile_seconds", "One coalesced compilation", registry=own, buckets=_FAST
        )
        self.dirty = Counter("limen_compiled_proxies", "Proxies compiled", registry=own)
        self.commit_s = Histogram(
            "limen_commit_seconds", "One commit to the store", registry=own, buckets=_FAST
        )
        self.commits = Counter("limen_commits", "Commits by outcome", ["outcome"], registry=own)
        self.nacks = Counter("limen_nacks", "Resources refused by proxies", registry=own)
        self.certificates = Counter("limen_certificates", "Certificates issued", registry=own)
        self.denials = Counter("limen_api_denials", "API calls refused", ["code"], registry=own)
        self._audit = Gauge(
            "limen_audit_head", "Number of the last audit event", ["hash"], registry=own
        )
        self.revision = Gauge("limen_revision", "Revision that was compiled last", registry=own)

    def audit_is_at(self, seq: int, head: str) -> None:
        """The end of the audit chain: kept elsewhere, it shows if the chain is cut off."""
        self._audit.clear()
        self._audit.labels(hash=head).set(seq)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
