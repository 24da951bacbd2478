"""Seconds as protobuf Duration, and numbers as their wrappers."""

from __future__ import annotations

from google.protobuf import duration_pb2, wrappers_pb2


def seconds(value: float) -> duration_pb2.Duration:
    """`value` in seconds, exact to the millisecond."""
    whole, milliseconds = divmod(round(value * 1000), 1000)
    return duration_pb2.Duration(seconds=whole, nanos=milliseconds * 1_000_000)


def uint32(value: int) -> wrappers_pb2.UInt32Value:
    """A number that differs from "not set"."""
    return wrappers_pb2.UInt32Value(value=value)


def true() -> wrappers_pb2.BoolValue:
    """True that differs from "not set"."""
    return wrappers_pb2.BoolValue(value=True)


def false() -> wrappers_pb2.BoolValue:
    """False that differs from "not set"."""
    return wrappers_pb2.BoolValue(value=False)
