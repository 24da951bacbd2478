"""Every kind of generated configuration passes Envoy's own validation."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from tests.core.envoy.plans import FEATURES

from limen.core.envoy import names
from limen.core.envoy.bootstrap import build_bootstrap
from limen.core.envoy.resources import node_resources, to_json

from .envoy_harness import ENVOY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("feature", FEATURES)
async def test_generated_configuration_is_valid(feature: str, tmp_path: Path) -> None:
    """Listeners and clusters stand in the file; what they discover stays to be discovered."""
    made = build_bootstrap(
        node_id="default/items/1",
        cluster="default/items",
        ads_socket=str(tmp_path / "ads.sock"),
        admin_socket=str(tmp_path / "admin.sock"),
    )
    bootstrap = json.loads(made)
    for key in ("lds_config", "cds_config"):
        del bootstrap["dynamic_resources"][key]
    resources = node_resources(FEATURES[feature])
    static = bootstrap["static_resources"]
    static["listeners"] = [plain(to_json(e)) for e in resources[names.LISTENER].values()]
    static["clusters"] += [plain(to_json(e)) for e in resources[names.CLUSTER].values()]
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(bootstrap), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(ENVOY, "--mode", "validate", "--log-level", "error", "--config-path", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def plain(resource: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in resource.items() if key != "@type"}
