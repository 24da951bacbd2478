"""What a stream reports, and what it knows about one resource."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Rejection:
    """The client refused one version of one resource, and still has the one before."""

    type_url: str
    name: str
    version: str
    message: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The client has, and has acknowledged, everything of this revision."""

    revision: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client has everything of this revision but what it refused."""

    revision: str
    rejections: tuple[Rejection, ...]


Event = Confirmed | Rejected


class Verdict(Enum):
    """What the client did with one version of one resource."""

    APPLIED = "applied"
    PENDING = "pending"
    REFUSED = "refused"
    UNWANTED = "unwanted"
    """It never asked for this resource."""


@dataclass(frozen=True, slots=True)
class Output:
    """`responses` to be sent in this order, `events` to be handled after sending."""

    responses: tuple[bytes, ...] = ()
    events: tuple[Event, ...] = ()
