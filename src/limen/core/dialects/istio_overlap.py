"""What is odd about a rule that is valid by itself: it never applies, or it refuses by path.

These are warnings. They need no other document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child
from limen.core.dialects.fields import obj, objects, text, texts
from limen.core.dialects.istio_patterns import (
    Pattern,
    Wild,
    is_template,
    parse_addresses,
    parse_pattern,
)
from limen.core.model.authorization import Action, ConditionKind, parse_condition_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MAX_COMPARED = 10_000
_ADDRESSES = {"ipBlocks", "remoteIpBlocks"}
_ADDRESS_KEYS = {ConditionKind.SOURCE_IP, ConditionKind.REMOTE_IP, ConditionKind.DESTINATION_IP}
_LISTS = {ConditionKind.AUDIENCES, ConditionKind.PRESENTER, ConditionKind.CLAIM}
_SOURCE = (
    "principals",
    "requestPrincipals",
    "namespaces",
    "serviceAccounts",
    "ipBlocks",
    "remoteIpBlocks",
)
_OPERATION = ("hosts", "ports", "methods", "paths")


def warn_about_rule(action: Action, rule: JsonObject, path: str, out: Findings) -> None:
    """Every warning about one checked rule."""
    for index, entry in enumerate(objects(rule, "from")):
        place = child(child(child(path, "from"), index), "source")
        _warn_about_fields(obj(entry, "source"), _SOURCE, place, out)
    for index, entry in enumerate(objects(rule, "to")):
        place = child(child(child(path, "to"), index), "operation")
        operation = obj(entry, "operation")
        _warn_about_fields(operation, _OPERATION, place, out)
        _warn_about_paths(action, operation, place, out)
    _warn_about_conditions(objects(rule, "when"), child(path, "when"), out)


def _warn_about_paths(action: Action, operation: JsonObject, path: str, out: Findings) -> None:
    """A path has more spellings than a proxy knows: who refuses by path is got round."""
    field = {Action.ALLOW: "notPaths", Action.DENY: "paths", Action.CUSTOM: "paths"}.get(action)
    if field is None or field not in operation:
        return
    what = {
        Action.ALLOW: "everything but a path is allowed",
        Action.DENY: "a path is denied",
        Action.CUSTOM: "only a path is checked by the provider",
    }[action]
    out.warn(
        "deny-by-path",
        f"{what}: an application that knows another spelling of it lets callers round this",
        child(path, field),
        "allow the paths that are needed instead; everything else is then refused",
    )


def _warn_about_fields(value: JsonObject, names: Iterable[str], path: str, out: Findings) -> None:
    for name in names:
        negated = f"not{name[0].upper()}{name[1:]}"
        addresses = name in _ADDRESSES
        _warn_about_host_bits(value, (name, negated) if addresses else (), path, out)
        covers = _covers(addresses=addresses, whole=name == "requestPrincipals")
        fold = str.lower if name == "hosts" else str
        wanted = [fold(text) for text in texts(value, name)]
        refused = [fold(text) for text in texts(value, negated)]
        if _never(wanted, refused, covers):
            _warn_never(f"{negated} takes back all of {name}", child(path, negated), out)


def _warn_about_host_bits(
    value: JsonObject, names: Iterable[str], path: str, out: Findings
) -> None:
    for name in names:
        for index, one in enumerate(texts(value, name)):
            network = parse_addresses(one)
            if "/" in one and str(network.network_address) != _canonical(one):
                out.warn(
                    "address-masked",
                    f"{one} means the whole of {network}",
                    child(child(path, name), index),
                    "write that, or the single address without /",
                )


def _canonical(block: str) -> str:
    return str(parse_addresses(block.partition("/")[0]).network_address)


def _warn_about_conditions(entries: list[JsonObject], path: str, out: Findings) -> None:
    exact: dict[str, set[str]] = {}
    for index, entry in enumerate(entries):
        place = child(path, index)
        kind = parse_condition_key(text(entry, "key")).kind
        addresses = kind in _ADDRESS_KEYS
        _warn_about_host_bits(entry, ("values", "notValues") if addresses else (), place, out)
        covers = _covers(addresses=addresses, whole=kind is ConditionKind.REQUEST_PRINCIPAL)
        if _never(texts(entry, "values"), texts(entry, "notValues"), covers):
            _warn_never("notValues takes back all of values", child(place, "notValues"), out)
        elif not addresses and kind not in _LISTS | {ConditionKind.HEADER}:
            _warn_about_disjoint(entry, exact, place, out)


def _warn_about_disjoint(
    entry: JsonObject, exact: dict[str, set[str]], path: str, out: Findings
) -> None:
    """Two conditions over one attribute with a single value, with no value in common."""
    values = texts(entry, "values")
    if not values or any(parse_pattern(v).wild is not Wild.NONE for v in values):
        return
    before = exact.get(text(entry, "key"), set(values))
    if before.isdisjoint(values):
        _warn_never("an earlier condition excludes all of values", child(path, "values"), out)
    exact[text(entry, "key")] = before & set(values)


def _warn_never(message: str, path: str, out: Findings) -> None:
    out.warn("never-matches", f"{message}: it never applies", path, "correct one of the two")


def _never(
    wanted: Iterable[str], refused: Iterable[str], covers: Callable[[str, str], bool]
) -> bool:
    """Whether there are wanted values and every one is covered by a refused one.

    Says no where that would be too much to compare: what is said here is advice.
    """
    wanted, refused = set(wanted), set(refused)
    if len(wanted) * len(refused) > _MAX_COMPARED:
        return bool(wanted) and wanted <= refused
    return bool(wanted) and all(any(covers(no, yes) for no in refused) for yes in wanted)


def _covers(*, addresses: bool, whole: bool) -> Callable[[str, str], bool]:
    """`whole`: the two parts of a value are compared apart, so that texts say too little."""
    if whole:
        return _covers_whole
    return _covers_addresses if addresses else _covers_text


def _covers_whole(wide: str, narrow: str) -> bool:
    return wide in ("*", narrow)


def _covers_addresses(wide: str, narrow: str) -> bool:
    outer, inner = parse_addresses(wide), parse_addresses(narrow)
    return outer.version == inner.version and (
        int(outer.network_address) <= int(inner.network_address)
        and int(inner.broadcast_address) <= int(outer.broadcast_address)
    )


def _covers_text(wide: str, narrow: str) -> bool:
    return _pattern(wide).covers(_pattern(narrow))


def _pattern(text: str) -> Pattern:
    return Pattern(Wild.NONE, text) if is_template(text) else parse_pattern(text)
