"""A finding about one place in a resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.model.diagnostic import Diagnostic, Severity

if TYPE_CHECKING:
    from limen.core.model.resource import Resource


def error_at(resource: Resource, code: str, message: str, path: str, hint: str) -> Diagnostic:
    """An error at `path` of the resource's document."""
    origin = resource.origin
    return Diagnostic(Severity.ERROR, code, message, origin.file, origin.line(path), path, hint)


def warning_at(resource: Resource, code: str, message: str, path: str, hint: str) -> Diagnostic:
    """A warning at `path` of the resource's document."""
    origin = resource.origin
    return Diagnostic(Severity.WARNING, code, message, origin.file, origin.line(path), path, hint)
