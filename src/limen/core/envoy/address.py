"""Socket addresses, and the config source through which every dynamic resource comes."""

from __future__ import annotations

from envoy.config.core.v3 import address_pb2, config_source_pb2


def socket_address(address: str, port: int) -> address_pb2.Address:
    """`address` (an IP) and TCP port `port`."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(address=address, port_value=port)
    )


def pipe_address(path: str, mode: int = 0) -> address_pb2.Address:
    """A Unix socket; `mode` is what a listener gives the file it makes (0: as the umask has it)."""
    return address_pb2.Address(pipe=address_pb2.Pipe(path=path, mode=mode))


def internal_address(listener: str) -> address_pb2.Address:
    """A listener inside the same Envoy."""
    return address_pb2.Address(
        envoy_internal_address=address_pb2.EnvoyInternalAddress(server_listener_name=listener)
    )


def ads_source() -> config_source_pb2.ConfigSource:
    """Everything dynamic comes over the one aggregated stream."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version="V3"
    )
