"""What a stream should have: all resources at one revision, as the caller sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Encoded(Protocol):
    """A serialised resource; `core/envoy` makes them, the client half receives them.

    `body` is field `resources` (2) of a DeltaDiscoveryResponse, with tag and length.
    """

    @property
    def name(self) -> str:
        """Name of the resource."""
        ...

    @property
    def version(self) -> str:
        """Hash of its content; equal versions are equal resources."""
        ...

    @property
    def body(self) -> bytes:
        """Bytes to be put into a response."""
        ...


_NOTHING: Mapping[str, Encoded] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class View:
    """`resources`: type URL → name → resource. `revision` is the caller's tag, any text.

    Mappings are never changed once a stream has seen them: a change is a new mapping.
    """

    revision: str = ""
    resources: Mapping[str, Mapping[str, Encoded]] = field(default_factory=dict)

    def of(self, type_url: str) -> Mapping[str, Encoded]:
        """Resources of one type."""
        return self.resources.get(type_url, _NOTHING)
