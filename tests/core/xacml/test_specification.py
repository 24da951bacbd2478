"""The engine knows every identifier of the core specification: functions (10.2.8), datatypes
(10.2.7), algorithms (10.2.4), and the names that 3.0 keeps for documents of old (A.4)."""

from __future__ import annotations

from limen.cli.xacml_reference import page
from limen.core.policy.xacml.datatypes import BY_URI
from limen.core.policy.xacml.functions.library import FUNCTIONS, HIGHER_ORDER

COMPARED = ("integer", "double", "string", "time", "dateTime", "date")
DURATIONS = ("dayTimeDuration", "yearMonthDuration")
PRIMITIVE = ("string", "boolean", "integer", "double", "time", "date", "dateTime")
OTHERS = ("anyURI", "hexBinary", "base64Binary", "x500Name", "rfc822Name")
ADDRESSES = ("ipAddress", "dnsName")
SETS = ("intersection", "at-least-one-member-of", "union", "subset", "set-equals")
BAGS = ("one-and-only", "bag-size", "bag")
CONVERTED = ("boolean", "integer", "double", "time", "date", "dateTime", "anyURI", "x500Name")


def _arithmetic() -> set[str]:
    dates = {
        f"dateTime-{verb}-{duration}" for verb in ("add", "subtract") for duration in DURATIONS
    } | {f"date-{verb}-yearMonthDuration" for verb in ("add", "subtract")}
    numbers = {
        f"{kind}-{verb}"
        for kind in ("integer", "double")
        for verb in ("add", "subtract", "multiply", "divide", "abs")
    }
    plain = {"integer-mod", "round", "floor", "double-to-integer", "integer-to-double"}
    return {f"1.0:function:{n}" for n in numbers | plain} | {f"3.0:function:{n}" for n in dates}


def _comparison() -> set[str]:
    equal = {f"1.0:function:{kind}-equal" for kind in (*PRIMITIVE, *OTHERS)}
    equal |= {f"3.0:function:{kind}-equal" for kind in DURATIONS}
    orders = ("greater-than", "greater-than-or-equal", "less-than", "less-than-or-equal")
    ordered = {f"1.0:function:{kind}-{order}" for kind in COMPARED for order in orders}
    return equal | ordered | {"3.0:function:string-equal-ignore-case", "2.0:function:time-in-range"}


def _bags() -> set[str]:
    names = {f"1.0:function:{k}-{v}" for k in (*PRIMITIVE, *OTHERS) for v in (*BAGS, *SETS)}
    names |= {f"1.0:function:{kind}-is-in" for kind in (*PRIMITIVE, *OTHERS)}
    names |= {f"3.0:function:{kind}-{verb}" for kind in DURATIONS for verb in (*BAGS, *SETS)}
    names |= {f"3.0:function:{kind}-is-in" for kind in DURATIONS}
    return names | {f"2.0:function:{kind}-{verb}" for kind in ADDRESSES for verb in BAGS}


def _strings() -> set[str]:
    kinds = (*CONVERTED, "rfc822Name", *DURATIONS, *ADDRESSES)
    names = {f"3.0:function:{kind}-from-string" for kind in kinds}
    names |= {f"3.0:function:string-from-{kind}" for kind in kinds}
    parts = ("starts-with", "ends-with", "substring", "contains")
    names |= {f"3.0:function:{kind}-{part}" for kind in ("string", "anyURI") for part in parts}
    names |= {f"1.0:function:string-normalize-{how}" for how in ("space", "to-lower-case")}
    return names | {"2.0:function:string-concatenate"}


def _matches() -> set[str]:
    kinds = ("anyURI", "rfc822Name", "x500Name", *ADDRESSES)
    names = {f"2.0:function:{kind}-regexp-match" for kind in kinds}
    names |= {f"1.0:function:{n}" for n in ("x500Name-match", "rfc822Name-match")}
    return names | {"1.0:function:string-regexp-match"}


LOGIC = {f"1.0:function:{name}" for name in ("or", "and", "n-of", "not")}
XPATH = {f"3.0:function:xpath-node-{what}" for what in ("count", "equal", "match")}
OF_FUNCTIONS = {f"3.0:function:{name}" for name in ("any-of", "all-of", "any-of-any", "map")} | {
    f"1.0:function:{name}" for name in ("all-of-any", "any-of-all", "all-of-all")
}
OLD = {
    "2.0:function:uri-string-concatenate",
    "2.0:function:url-string-concatenate",
    *(f"1.0:function:{name}" for name in ("any-of", "all-of", "any-of-any", "map")),
    *(f"1.0:function:{kind}-equal" for kind in DURATIONS),
    *(n.replace("3.0:", "1.0:") for n in _arithmetic() if "Duration" in n),
    *(n.replace("3.0:", "1.0:") for n in _bags() if "Duration" in n),
}
DATATYPES = {
    *(f"http://www.w3.org/2001/XMLSchema#{kind}" for kind in (*PRIMITIVE, *OTHERS[:3], *DURATIONS)),
    *(f"urn:oasis:names:tc:xacml:1.0:data-type:{kind}" for kind in OTHERS[3:]),
    *(f"urn:oasis:names:tc:xacml:2.0:data-type:{kind}" for kind in ADDRESSES),
    "urn:oasis:names:tc:xacml:3.0:data-type:xpathExpression",
}
STRICT = ("deny-overrides", "permit-overrides")
ALGORITHMS = {
    *(
        f"3.0:{k}:{n}"
        for k in ("rule", "policy")
        for n in (*STRICT, *(f"ordered-{s}" for s in STRICT))
    ),
    *(
        f"3.0:{k}:{n}"
        for k in ("rule", "policy")
        for n in ("deny-unless-permit", "permit-unless-deny")
    ),
    *(f"1.0:{k}:{n}" for k in ("rule", "policy") for n in (*STRICT, "first-applicable")),
    *(f"1.1:{k}:ordered-{n}" for k in ("rule", "policy") for n in STRICT),
    "1.0:policy:only-one-applicable",
}


def test_every_function_of_the_specification_is_there():
    wanted = _arithmetic() | _comparison() | _bags() | _strings() | _matches()
    wanted |= LOGIC | XPATH | OF_FUNCTIONS | OLD | {"3.0:function:access-permitted"}
    known = set(FUNCTIONS) | set(HIGHER_ORDER)
    assert {f"urn:oasis:names:tc:xacml:{name}" for name in wanted} - known == set()
    assert len(wanted) == 285


def test_every_datatype_of_the_specification_is_there():
    assert DATATYPES - set(BY_URI) == set()
    assert len(DATATYPES) == 17


def test_every_algorithm_of_the_specification_is_listed():
    text = page()
    for name in ALGORITHMS:
        version, kind, algorithm = name.split(":")
        assert (
            f"`urn:oasis:names:tc:xacml:{version}:{kind}-combining-algorithm:{algorithm}`" in text
        )
