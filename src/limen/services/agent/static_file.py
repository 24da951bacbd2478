"""Workloads given in a file at start (`limen agent run --workloads FILE`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from limen.errors import InvalidInput
from limen.services.agent.spec import parse_spec

if TYPE_CHECKING:
    from pathlib import Path

    from limen.services.agent.spec import WorkloadSpec

MAX_BYTES = 1 << 20
MAX_DEPTH = 8
MAX_WORKLOADS = 1000


def load_specs(path: Path) -> tuple[WorkloadSpec, ...]:
    """A YAML or JSON list of workloads, fields as in `WorkloadSpec`. Raises InvalidInput.

    Each needs an `instance`, so that a restart finds it again.
    """
    try:
        text = path.read_bytes()[: MAX_BYTES + 1]
        if len(text) > MAX_BYTES:
            raise InvalidInput(f"{path} is larger than {MAX_BYTES} bytes")
        _check_shape(text)
        found = yaml.safe_load(text)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{path} is not YAML: {str(error)[:200]}") from error
    if not isinstance(found, list) or len(found) > MAX_WORKLOADS:
        raise InvalidInput(f"{path} must hold a list of workloads")
    specs = []
    for item in found:
        if not isinstance(item, dict) or not item.get("instance"):
            raise InvalidInput(f"{path}: each workload is an object and has an instance")
        specs.append(parse_spec(item))
    return tuple(specs)


def _check_shape(text: bytes) -> None:
    """Refuse aliases and deep nesting before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise InvalidInput("aliases are not allowed in a workloads file")
        depth += isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent))
        depth -= isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent))
        if depth > MAX_DEPTH:
            raise InvalidInput("the workloads file is nested too deeply")
