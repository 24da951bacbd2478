"""A part of `pdp.py`: what a decision over ext_authz adds to a request through Envoy."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from envoy_pairs import backend
from processes import Envoy, cpu_s, generate_load

AUTHZ = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def _asking(port: int, pdp: str) -> dict[str, Any]:
    """The backend with a decision in front."""
    config = backend(port)
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    headers = {"allowed_headers": {"patterns": [{"exact": "x-user"}]}}
    service = {
        "server_uri": {"uri": "http://pdp", "cluster": "pdp", "timeout": "5s"},
        "path_prefix": "/envoy",
        "authorization_request": headers,
    }
    filter_ = {"@type": AUTHZ, "transport_api_version": "V3", "http_service": service}
    chain["filters"][0]["typed_config"]["http_filters"].insert(
        0, {"name": "authz", "typed_config": filter_}
    )
    endpoint = {"endpoint": {"address": {"pipe": {"path": pdp}}}}
    assignment = {"cluster_name": "pdp", "endpoints": [{"lb_endpoints": [endpoint]}]}
    config["static_resources"]["clusters"].append({"name": "pdp", "load_assignment": assignment})
    return config


def _load(port: int, seconds: float) -> dict[str, float]:
    """Microseconds at one connection, requests/s at 32."""
    headers = ["host: items", "x-user: doctor"]
    one = generate_load(port, 1, seconds, "/record-50", headers)
    many = generate_load(port, 32, seconds, "/record-50", headers)
    assert one["failures"] == many["failures"] == 0
    rate = many["requests"] / many["seconds"]
    return {"p50_us": one["p50_us"], "p99_us": one["p99_us"], "per_s": rate}


def measure_envoy(policies: dict[str, tuple[str, bytes]], seconds: float) -> dict[str, float]:
    """Figures by name: without a decision, and with each of `policies` (suffix, document)."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        port = _free_port()
        with Envoy("plain", backend(port), place, port):
            plain = _load(port, seconds)
        for key, value in plain.items():
            found[f"Envoy, no decision, {key}"] = value
        for name, (suffix, document) in policies.items():
            (place / f"{name}.{suffix}").write_bytes(document)
            with_decision, used_us = _one(place, name, suffix, seconds)
            for key, value in with_decision.items():
                found[f"Envoy, {name}, {key}"] = value
            found[f"Envoy, {name}, added p50_us"] = with_decision["p50_us"] - plain["p50_us"]
            found[f"Envoy, {name}, rate ratio"] = with_decision["per_s"] / plain["per_s"]
            found[f"Envoy, {name}, CPU us of the decision point"] = used_us
    return found


def _one(place: Path, name: str, suffix: str, seconds: float) -> tuple[dict[str, float], float]:
    path = str(place / f"{name}.sock")
    limen = str(Path(sys.executable).with_name("limen"))
    policy = str(place / f"{name}.{suffix}")
    process = subprocess.Popen(
        [limen, "pdp", "serve", "--policy", policy, "--listen", f"unix:{path}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        port = _free_port()
        with Envoy(name, _asking(port, path), place, port):
            before = cpu_s(process.pid)
            found = _load(port, seconds)
            requests = found["per_s"] * seconds + seconds * 1e6 / found["p50_us"]
            return found, (cpu_s(process.pid) - before) / requests * 1e6
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close() if process.stdout else None
