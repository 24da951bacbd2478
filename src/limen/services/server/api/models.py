"""Shapes of the API's messages. Requests refuse unknown fields and wrong types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """What every request body has in common."""

    model_config = ConfigDict(extra="forbid", strict=True)


class File(Request):
    """One file of documents: `name` is shown in findings, `text` is YAML or JSON."""

    name: str = Field(max_length=1024)
    text: str


class ApplyRequest(Request):
    """Documents to create or change, all or none."""

    files: list[File] = Field(min_length=1, max_length=1000)
    dry_run: bool = False
    wait_s: float | None = Field(default=None, ge=0, le=300)


class TokenRequest(Request):
    """A join token: which services of which mesh its holder may run."""

    mesh: str = "default"
    namespace: str = "default"
    services: list[str] = Field(min_length=1, max_length=100)
    tags: dict[str, str] = Field(default_factory=dict, max_length=50)
    gateway: bool = False
    ttl_s: int = Field(default=600, json_schema_extra={"minimum": 1, "maximum": 7 * 86400})


class JoinRequest(BaseModel):
    """What an agent sends to become a node. Fields of newer agents are left aside."""

    model_config = ConfigDict(extra="ignore", strict=True)
    token: str = Field(max_length=2048)
    csr_pem: str = Field(max_length=8192)
    hostname: str = Field(default="", max_length=253)
    versions: dict[str, str] = Field(default_factory=dict, max_length=20)


class ExplainRequest(Request):
    """A request to be judged. `from` and `to` as `limen explain` takes them."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
    from_: str = Field(alias="from", max_length=2048)
    to: str = Field(max_length=600)
    mesh: str = "default"
    method: str = Field(default="GET", max_length=64)
    path: str = Field(default="/", max_length=16384)
    headers: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list, max_length=200
    )
    port: int | None = Field(default=None, ge=1, le=65535)
    claims: dict[str, Any] | None = Field(default=None, max_length=500)
    source_ip: str = Field(default="", max_length=64)
    remote_ip: str = Field(default="", max_length=64)
    sni: str = Field(default="", max_length=255)
    provider_allows: list[str] = Field(default_factory=list, max_length=100)


class Finding(BaseModel):
    """A diagnostic."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    file: str
    line: int
    path: str
    hint: str


class ErrorAnswer(BaseModel):
    """Every answer that is an error."""

    code: str
    message: str
    hint: str
    diagnostics: list[Finding]


class ResourceResult(BaseModel):
    """What happened to one resource."""

    kind: str
    mesh: str
    namespace: str
    name: str
    result: Literal["created", "configured", "unchanged"]


class ProxyChange(BaseModel):
    """A proxy that changes; in a dry run with the names of its resources (`TYPE name`)."""

    instance: str
    added: list[str] | None = None
    changed: list[str] | None = None
    removed: list[str] | None = None


class Missing(BaseModel):
    """A proxy that does not enforce the revision, and why."""

    mesh: str
    instance: str
    why: str


class WaitAnswer(BaseModel):
    """How far a revision has come."""

    revision: int
    enforced: int
    total: int
    missing: list[Missing]


class ApplyAnswer(BaseModel):
    """What an apply did, or would do."""

    revision: int
    dry_run: bool
    results: list[ResourceResult]
    diagnostics: list[Finding]
    affected: list[ProxyChange]
    wait: WaitAnswer | None = None


class Items(BaseModel):
    """A list of things, true at `revision`. `next`: where a list in pages goes on."""

    items: list[dict[str, Any]]
    revision: int | None = None
    next: int | None = None


class TokenAnswer(BaseModel):
    """The new token; it is shown this once."""

    id: str
    token: str
    expires_s: float
