"""A proxy whose discovery stream is open: the stream, and what is on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from limen.core.envoy import names
from limen.core.envoy.resources import (
    live_resources,
    shape_of,
    shape_resources,
    without_cutover,
)

if TYPE_CHECKING:
    from limen.core.envoy.encoded import NodeResources
    from limen.core.model.names import InstanceName, WorkloadName
    from limen.core.plan.node import LocalSide, NodePlan
    from limen.errors import LimenError


class Stream(Protocol):
    """An open discovery stream, as the loop sees it."""

    @property
    def instance(self) -> InstanceName:
        """Whose stream it is."""
        ...

    def put(self, resources: NodeResources, revision: int, previous: int) -> None:
        """These are all resources of the proxy at `revision`; `previous` was compiled before."""
        ...

    def end(self, error: LimenError) -> None:
        """Close it and say why."""
        ...


_SHAPED = (names.LISTENER, names.CLUSTER, names.ROUTES)


class OpenProxy:
    """A stream and what is on it."""

    __slots__ = ("callees", "changed_at", "local", "resources", "shape", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.resources: NodeResources = {}
        self.callees: tuple[WorkloadName, ...] = ()
        self.local: LocalSide | None = None
        self.shape: NodePlan | None = None
        self.changed_at = 0

    def compile(self, plan: NodePlan) -> NodeResources:
        """The resources of `plan`; those that it leaves as they were are the same objects."""
        shape = shape_of(plan)
        if shape == self.shape:
            kept = {url: self.resources[url] for url in _SHAPED}
        else:
            kept = shape_resources(shape)
        self.shape = shape
        return {**kept, **live_resources(plan)}

    def permissions_alone(self, plan: NodePlan) -> NodeResources | None:
        """What is on the stream, with the permissions of `plan`; None if they do not fit to it."""
        if self.shape is None or without_cutover(shape_of(plan)) != without_cutover(self.shape):
            return None
        return {**self.resources, names.EXTENSION: live_resources(plan)[names.EXTENSION]}
