"""AttributeSources on their way to a decision point: values to JSON and back, nothing lost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from limen.core.model import attribute_source as model
from limen.core.model.attribute_source import (
    AttributeName,
    AttributeSource,
    GivenAttribute,
    Listing,
    SourceParameter,
)

_ORIGINS = {
    origin.__name__: origin
    for origin in (
        model.FileOrigin,
        model.HttpOrigin,
        model.SqliteOrigin,
        model.PostgresOrigin,
        model.ClaimsOrigin,
        model.LabelsOrigin,
    )
}


def source_to_json(source: AttributeSource) -> dict[str, Any]:
    """What `source_from_json` reads back as an equal source."""
    return {**asdict(source), "kind": type(source.origin).__name__}


def source_from_json(data: dict[str, Any]) -> AttributeSource:
    """A source that `source_to_json` wrote. Raises KeyError, TypeError for anything else."""
    origin = {name: _tuple(value) for name, value in data["origin"].items()}
    return AttributeSource(
        namespace=data["namespace"],
        name=data["name"],
        origin=_ORIGINS[data["kind"]](**origin),
        parameters=tuple(
            SourceParameter(one["name"], AttributeName(**one["attribute"]))
            for one in data["parameters"]
        ),
        gives=tuple(
            GivenAttribute(AttributeName(**one["attribute"]), one["field"], one["optional"])
            for one in data["gives"]
        ),
        cache_s=data["cache_s"],
        timeout_s=data["timeout_s"],
        max_rows=data["max_rows"],
        lists=tuple(Listing(**one) for one in data["lists"]),
    )


def _tuple(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value
