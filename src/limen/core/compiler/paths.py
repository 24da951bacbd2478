"""The spelling in which a path reaches policy and application behind our Envoy.

Measured on Envoy 1.40 with `normalize_path`, `merge_slashes` and
`path_with_escaped_slashes_action: REJECT_REQUEST` (tests/core/compiler/test_paths.py has the table;
`core/envoy/hcm.py` sets the three).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_UNRESERVED = re.compile(r"%(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")
_ESCAPED_SLASH = re.compile(r"%(?:2[fF]|5[cC])")
_DOTS_WITH_PARAMETERS = re.compile(r"/\.\.?;")
"""Left over after all; denied by a rule of its own (`core/envoy/rbac.py`)."""
_ENCODED = {ord(c): f"%{ord(c):02X}" for c in '"<>^`{|}'} | {ord("\\"): "/"}


@dataclass(frozen=True, slots=True)
class NormalPath:
    """`path` as policy sees it; `refused` says why Envoy answers `status` instead, "" if not."""

    path: str
    refused: str = ""
    status: int = 400


@lru_cache(maxsize=4096)
def normalise_path(text: str) -> NormalPath:
    """What Envoy makes of the request target `text`: path, query cut off. Total."""
    path, _, _ = text.partition("?")
    refused = _refusal(text, path)
    if refused:
        return NormalPath(path, refused)
    segments = [_without_parameters(s) for s in path.split("/")]
    path = _UNRESERVED.sub(lambda m: chr(int(m[1], 16)), "/".join(segments)).translate(_ENCODED)
    path = _merge_slashes(_remove_dots(path))
    if _DOTS_WITH_PARAMETERS.search(path):
        return NormalPath(path, "the path holds a dot segment with parameters (..;)", 403)
    return NormalPath(path)


def _refusal(target: str, path: str) -> str:
    if not path.startswith("/"):
        return "a path begins with /"
    if any(not "!" <= c <= "~" for c in target):
        return "the path holds a character that must be percent-encoded"
    if "#" in target:
        return "the path has a fragment (#)"
    if "%00" in path:
        return "the path holds an encoded NUL"
    if _ESCAPED_SLASH.search(path):
        return "the path holds an escaped slash or backslash (%2F, %5C)"
    return ""


def _without_parameters(segment: str) -> str:
    """`..;x` counts as `..`; any other segment keeps its parameters."""
    name, _, _ = segment.partition(";")
    return name if name in (".", "..") else segment


def _remove_dots(path: str) -> str:
    """RFC 3986, section 5.2.4."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _merge_slashes(path: str) -> str:
    if "//" not in path:
        return path
    inner = "/".join(s for s in path.split("/") if s)
    return f"/{inner}/" if path.endswith("/") else f"/{inner}"
