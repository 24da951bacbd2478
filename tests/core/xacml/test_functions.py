"""The functions of appendix A, family by family: results, errors, refusals at load."""

from __future__ import annotations

import pytest
from tests.core.xacml.builders import (
    apply,
    bag,
    designator,
    function,
    literal,
    load,
    policy,
    rule,
    subject,
    truth,
)

from limen.core.policy.xacml.functions.library import FUNCTIONS, HIGHER_ORDER
from limen.errors import InvalidInput

ERROR = "processing-error"


def equal(kind: str, left: str, right: str) -> str:
    return apply(f"{kind}-equal", left, right)


EQUAL = [
    ("string", "a", "a", True),
    ("string", "a", "A", False),
    ("string", " a", "a", False),
    ("boolean", "1", "true", True),
    ("boolean", "false", "true", False),
    ("integer", "+07", "7", True),
    ("integer", "9" * 60, "9" * 60, True),
    ("double", "1e2", "100", True),
    ("double", "NaN", "NaN", True),
    ("double", "INF", "-INF", False),
    ("date", "2002-03-22", "2002-03-22Z", True),
    ("date", "2002-03-22-05:00", "2002-03-22+05:00", False),
    ("time", "08:23:47-05:00", "13:23:47Z", True),
    ("time", "24:00:00", "00:00:00", True),
    ("time", "08:00:00.50", "08:00:00.5Z", True),
    ("time", "08:00:00+09:00", "17:00:00-06:00", False),
    ("dateTime", "2002-03-22T08:23:47-05:00", "2002-03-22T13:23:47Z", True),
    ("dateTime", "2002-03-22T24:00:00", "2002-03-23T00:00:00", True),
    ("dayTimeDuration", "P1DT2H", "PT26H", True),
    ("dayTimeDuration", "-PT60S", "-PT1M", True),
    ("yearMonthDuration", "P1Y2M", "P14M", True),
    ("anyURI", "http://a/b", "http://a/b", True),
    ("anyURI", "http://a/b", "http://a/B", False),
    ("x500Name", "CN=John  Smith, O=Medico", "cn=john smith,o=medico", True),
    ("x500Name", "cn=A+ou=B,o=C", "OU=b+CN=a,O=c", True),
    ("x500Name", "cn=A,o=B", "o=B,cn=A", False),
    ("x500Name", "2.5.4.3=A", "cn=a", True),
    ("x500Name", r"cn=a\,b", r'cn="a,b"', True),
    ("x500Name", r"cn=a\2Cb", r"cn=a\,b", True),
    ("rfc822Name", "Anne@SUN.com", "Anne@sun.COM", True),
    ("rfc822Name", "anne@sun.com", "Anne@sun.com", False),
    ("hexBinary", "0bf7", "0BF7", True),
    ("hexBinary", "0bf7", "0BF8", False),
    ("base64Binary", "c3VyZS4=", "c3Vy ZS4=", True),
]


@pytest.mark.parametrize(("kind", "left", "right", "expected"), EQUAL)
def test_equality(kind: str, left: str, right: str, *, expected: bool):
    assert truth(equal(kind, literal(kind, left), literal(kind, right))) is expected


def test_equality_without_case():
    fn = "string-equal-ignore-case"
    assert truth(apply(fn, literal("string", "ÄbC"), literal("string", "äBc"))) is True
    assert truth(apply(fn, literal("string", "a"), literal("string", "b"))) is False


ORDER = [
    ("integer", "1", "2"),
    ("double", "-INF", "0"),
    ("string", "A", "a"),
    ("time", "08:00:00Z", "08:00:00-01:00"),
    ("date", "2001-12-31", "2002-01-01"),
    ("dateTime", "-0044-03-15T00:00:00Z", "0001-01-01T00:00:00Z"),
    ("dateTime", "9999-12-31T00:00:00Z", "12000-01-01T00:00:00Z"),
]


@pytest.mark.parametrize(("kind", "low", "high"), ORDER)
def test_order(kind: str, low: str, high: str):
    small, large = literal(kind, low), literal(kind, high)
    assert truth(apply(f"{kind}-less-than", small, large)) is True
    assert truth(apply(f"{kind}-less-than", small, small)) is False
    assert truth(apply(f"{kind}-less-than-or-equal", small, small)) is True
    assert truth(apply(f"{kind}-greater-than", large, small)) is True
    assert truth(apply(f"{kind}-greater-than", small, large)) is False
    assert truth(apply(f"{kind}-greater-than-or-equal", large, large)) is True


RANGE = [
    ("12:00:00", "09:00:00", "17:00:00", True),
    ("09:00:00", "09:00:00", "17:00:00", True),
    ("17:00:00", "09:00:00", "17:00:00", True),
    ("17:00:01", "09:00:00", "17:00:00", False),
    ("23:30:00", "22:00:00", "02:00:00", True),
    ("01:30:00", "22:00:00", "02:00:00", True),
    ("12:00:00", "22:00:00", "02:00:00", False),
    ("12:00:00-05:00", "11:00:00", "13:00:00", True),
    ("12:00:00-05:00", "16:00:00Z", "18:00:00Z", True),
    ("08:00:00Z", "08:00:00Z", "08:00:00Z", True),
]


@pytest.mark.parametrize(("at", "low", "high", "expected"), RANGE)
def test_time_in_range(at: str, low: str, high: str, *, expected: bool):
    times = [literal("time", text) for text in (at, low, high)]
    assert truth(apply("time-in-range", *times)) is expected


INTEGER = [
    ("integer-add", ("2", "3", "4"), "9"),
    ("integer-add", ("9" * 40, "1"), "1" + "0" * 40),
    ("integer-subtract", ("2", "3"), "-1"),
    ("integer-multiply", ("2", "3", "-4"), "-24"),
    ("integer-divide", ("7", "2"), "3"),
    ("integer-divide", ("-7", "2"), "-3"),
    ("integer-divide", ("7", "-2"), "-3"),
    ("integer-mod", ("7", "3"), "1"),
    ("integer-mod", ("-7", "3"), "-1"),
    ("integer-mod", ("7", "-3"), "1"),
    ("integer-abs", ("-7",), "7"),
]
DOUBLE = [
    ("double-add", ("1.5", "2", "0.25"), "3.75"),
    ("double-subtract", ("1", "1.5"), "-0.5"),
    ("double-multiply", ("1.5", "2", "3"), "9"),
    ("double-multiply", ("1e308", "10"), "INF"),
    ("double-divide", ("1", "4"), "0.25"),
    ("double-abs", ("-0.5",), "0.5"),
    ("double-subtract", ("INF", "INF"), "NaN"),
    ("round", ("2.5",), "2"),
    ("round", ("3.5",), "4"),
    ("round", ("-2.6",), "-3"),
    ("round", ("INF",), "INF"),
    ("floor", ("-2.5",), "-3"),
    ("floor", ("2.9",), "2"),
]


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "expected"),
    [("integer", *case) for case in INTEGER] + [("double", *case) for case in DOUBLE],
)
def test_arithmetic(kind: str, name: str, arguments: tuple[str, ...], expected: str):
    call = apply(name, *(literal(kind, a) for a in arguments))
    assert truth(equal(kind, call, literal(kind, expected))) is True
    assert truth(equal(kind, call, literal(kind, "123456"))) is False


def test_numeric_conversion_truncates():
    five = equal(
        "integer", apply("double-to-integer", literal("double", "5.9")), literal("integer", "5")
    )
    minus = equal(
        "integer", apply("double-to-integer", literal("double", "-5.9")), literal("integer", "-5")
    )
    back = equal(
        "double", apply("integer-to-double", literal("integer", "5")), literal("double", "5")
    )
    assert [truth(e) for e in (five, minus, back)] == [True, True, True]


def test_operations_without_result_are_processing_errors():
    zero, one = literal("integer", "0"), literal("integer", "1")
    assert truth(equal("integer", apply("integer-divide", one, zero), one)) == ERROR
    assert truth(equal("integer", apply("integer-mod", one, zero), one)) == ERROR
    nought = literal("double", "0")
    assert truth(equal("double", apply("double-divide", nought, nought), nought)) == ERROR
    infinite = apply("double-to-integer", literal("double", "INF"))
    assert truth(equal("integer", infinite, one)) == ERROR
    huge = apply("integer-to-double", literal("integer", "9" * 400))
    assert truth(equal("double", huge, nought)) == ERROR


def test_integer_that_grows_without_bound_is_a_processing_error():
    number = literal("integer", "9" * 4000)
    assert truth(equal("integer", apply("integer-multiply", number, number), number)) == ERROR


DATES = [
    (
        "dateTime-add-dayTimeDuration",
        "dateTime",
        "2002-03-22T08:23:47Z",
        "dayTimeDuration",
        "P10DT1H",
        "2002-04-01T09:23:47Z",
    ),
    (
        "dateTime-subtract-dayTimeDuration",
        "dateTime",
        "2002-03-01T00:00:00Z",
        "dayTimeDuration",
        "PT1S",
        "2002-02-28T23:59:59Z",
    ),
    (
        "dateTime-add-yearMonthDuration",
        "dateTime",
        "2004-02-29T08:00:00Z",
        "yearMonthDuration",
        "P1Y",
        "2005-02-28T08:00:00Z",
    ),
    (
        "dateTime-subtract-yearMonthDuration",
        "dateTime",
        "2002-01-31T08:00:00Z",
        "yearMonthDuration",
        "P2M",
        "2001-11-30T08:00:00Z",
    ),
    ("date-add-yearMonthDuration", "date", "2002-01-31", "yearMonthDuration", "P1M", "2002-02-28"),
    (
        "date-add-yearMonthDuration",
        "date",
        "2002-03-22",
        "yearMonthDuration",
        "-P5Y3M",
        "1996-12-22",
    ),
    (
        "date-subtract-yearMonthDuration",
        "date",
        "2002-03-22",
        "yearMonthDuration",
        "P5Y3M",
        "1996-12-22",
    ),
]


@pytest.mark.parametrize(("name", "kind", "moment", "amount", "duration", "expected"), DATES)
def test_arithmetic_of_dates(
    name: str, kind: str, moment: str, amount: str, duration: str, *, expected: str
):
    arguments = (literal(kind, moment), literal(amount, duration))
    for uri in (name, f"urn:oasis:names:tc:xacml:1.0:function:{name}"):
        assert truth(equal(kind, apply(uri, *arguments), literal(kind, expected))) is True


def test_date_beyond_the_last_year_is_a_processing_error():
    late = literal("dateTime", "999999999-01-01T00:00:00Z")
    moved = apply(
        "dateTime-add-yearMonthDuration", late, literal("yearMonthDuration", "P999999999Y")
    )
    assert truth(equal("dateTime", moved, late)) == ERROR


STRINGS = [
    (apply("string-normalize-space", literal("string", " \t a  b \n")), "a  b"),
    (apply("string-normalize-to-lower-case", literal("string", "ÀbC")), "àbc"),
    (apply("string-concatenate", *(literal("string", t) for t in ("a", "b", "c"))), "abc"),
    (
        apply(
            "string-substring",
            literal("string", "abcdef"),
            literal("integer", "2"),
            literal("integer", "4"),
        ),
        "cd",
    ),
    (
        apply(
            "string-substring",
            literal("string", "abcdef"),
            literal("integer", "2"),
            literal("integer", "-1"),
        ),
        "cdef",
    ),
    (
        apply(
            "anyURI-substring",
            literal("anyURI", "http://a"),
            literal("integer", "0"),
            literal("integer", "4"),
        ),
        "http",
    ),
    (apply("string-from-boolean", literal("boolean", "1")), "true"),
    (apply("string-from-integer", literal("integer", "+007")), "7"),
    (apply("string-from-double", literal("double", "1234.5")), "1.2345E3"),
    (apply("string-from-double", literal("double", "0.001")), "1.0E-3"),
    (apply("string-from-time", literal("time", "08:00:00.500-05:00")), "08:00:00.5-05:00"),
    (apply("string-from-date", literal("date", "2002-03-22")), "2002-03-22"),
    (
        apply("string-from-dateTime", literal("dateTime", "2002-03-22T24:00:00Z")),
        "2002-03-23T00:00:00Z",
    ),
    (apply("string-from-dayTimeDuration", literal("dayTimeDuration", "PT3661.50S")), "PT1H1M1.5S"),
    (apply("string-from-yearMonthDuration", literal("yearMonthDuration", "-P25M")), "-P2Y1M"),
    (apply("string-from-anyURI", literal("anyURI", "http://a")), "http://a"),
    (apply("string-from-x500Name", literal("x500Name", "cn=A,o=B")), "cn=A,o=B"),
    (apply("string-from-rfc822Name", literal("rfc822Name", "a@B.c")), "a@B.c"),
    (
        apply("string-from-ipAddress", literal("ipAddress", "10.0.0.1/255.0.0.0:80-90")),
        "10.0.0.1/255.0.0.0:80-90",
    ),
    (apply("string-from-dnsName", literal("dnsName", "*.Example.com:80")), "*.Example.com:80"),
]


@pytest.mark.parametrize(("expression", "expected"), STRINGS)
def test_functions_that_give_strings(expression: str, expected: str):
    assert truth(equal("string", expression, literal("string", expected))) is True


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("boolean", "true", "yes"),
        ("integer", "12", "1.5"),
        ("double", "1.5", "1,5"),
        ("time", "08:00:00", "8:00"),
        ("date", "2002-03-22", "2002-02-30"),
        ("dateTime", "2002-03-22T08:00:00", "2002-03-22 08:00:00"),
        ("dayTimeDuration", "P1D", "P1M"),
        ("yearMonthDuration", "P1M", "P1D"),
        ("x500Name", "cn=a", "nothing"),
        ("rfc822Name", "a@b", "a"),
    ],
)
def test_values_from_strings(kind: str, good: str, bad: str):
    read = apply(f"{kind}-from-string", literal("string", good))
    assert truth(equal(kind, read, literal(kind, good))) is True
    wrong = apply(f"{kind}-from-string", literal("string", bad))
    assert truth(equal(kind, wrong, literal(kind, good))) == "syntax-error"


@pytest.mark.parametrize(
    ("kind", "good", "bad"), [("ipAddress", "10.1.2.3", "10.1.2"), ("dnsName", "a.b", "a b")]
)
def test_network_names_from_strings(kind: str, good: str, bad: str):
    def back(text: str) -> str:
        return apply(f"string-from-{kind}", apply(f"{kind}-from-string", literal("string", text)))

    assert truth(equal("string", back(good), literal("string", good))) is True
    assert truth(equal("string", back(bad), literal("string", good))) == "syntax-error"


PARTS = [
    ("starts-with", "http", True),
    ("starts-with", "com", False),
    ("ends-with", "com", True),
    ("ends-with", "http", False),
    ("contains", "://", True),
    ("contains", "ftp", False),
]


@pytest.mark.parametrize(("name", "part", "expected"), PARTS)
def test_parts_of_strings_and_uris(name: str, part: str, *, expected: bool):
    for kind in ("string", "anyURI"):
        call = apply(f"{kind}-{name}", literal("string", part), literal(kind, "http://a.com"))
        assert truth(call) is expected


def test_substring_out_of_bounds_is_a_processing_error():
    text = apply("string-one-and-only", designator("text"))
    for begin, end in (("0", "9"), ("4", "-1"), ("4", "5")):
        call = apply("string-substring", text, literal("integer", begin), literal("integer", end))
        assert truth(equal("string", call, text), subject(text="abc")) == ERROR


@pytest.mark.parametrize(("begin", "end"), [("-2", "8"), ("0", "-2"), ("3", "2")])
def test_substring_with_impossible_literals_is_refused_at_load(begin: str, end: str):
    text = literal("string", "abcdef")
    call = apply("string-substring", text, literal("integer", begin), literal("integer", end))
    with pytest.raises(InvalidInput, match="substring"):
        truth(equal("string", call, text))


def test_concatenation_is_bounded():
    part = literal("string", "x" * 600_000)
    assert truth(equal("string", apply("string-concatenate", part, part), part)) == ERROR


def test_uri_concatenation_of_old_makes_a_uri():
    call = apply(
        "urn:oasis:names:tc:xacml:2.0:function:uri-string-concatenate",
        literal("anyURI", "http://a/"),
        literal("string", "b"),
    )
    assert truth(equal("anyURI", call, literal("anyURI", "http://a/b"))) is True


TRUE, FALSE = literal("boolean", "true"), literal("boolean", "false")
FAILS = equal(
    "integer", apply("integer-divide", *[literal("integer", "0")] * 2), literal("integer", "0")
)
LOGIC = [
    (apply("or"), False),
    (apply("or", FALSE, TRUE), True),
    (apply("or", FAILS, TRUE), True),
    (apply("or", FALSE, FAILS), ERROR),
    (apply("and"), True),
    (apply("and", TRUE, FALSE), False),
    (apply("and", FAILS, FALSE), False),
    (apply("and", TRUE, FAILS), ERROR),
    (apply("not", FALSE), True),
    (apply("not", FAILS), ERROR),
    (apply("n-of", literal("integer", "0"), FAILS), True),
    (apply("n-of", literal("integer", "2"), TRUE, FALSE, TRUE), True),
    (apply("n-of", literal("integer", "2"), TRUE, FALSE, FALSE), False),
    (apply("n-of", literal("integer", "2"), TRUE, FAILS, TRUE), True),
    (apply("n-of", literal("integer", "2"), TRUE, FAILS, FALSE), ERROR),
    (apply("n-of", literal("integer", "2"), FALSE, FAILS, FALSE), False),
    (apply("n-of", literal("integer", "0")), True),
]


@pytest.mark.parametrize(("expression", "expected"), LOGIC)
def test_logic(expression: str, *, expected: bool | str):
    assert truth(expression) == expected


@pytest.mark.parametrize("count", ["3", "-1"])
def test_n_of_more_than_there_are_is_refused_or_indeterminate(count: str):
    with pytest.raises(InvalidInput, match="n-of wants"):
        truth(apply("n-of", literal("integer", count), TRUE, TRUE))
    computed = apply("integer-from-string", apply("string-one-and-only", designator("n")))
    assert truth(apply("n-of", computed, TRUE, TRUE), subject(n=count)) == ERROR


BAGS = [
    (apply("string-is-in", literal("string", "a"), bag("string", "b", "a")), True),
    (apply("string-is-in", literal("string", "a"), bag("string")), False),
    (apply("double-is-in", literal("double", "NaN"), bag("double", "NaN")), True),
    (
        equal(
            "integer", apply("string-bag-size", bag("string", "a", "a")), literal("integer", "2")
        ),
        True,
    ),
    (
        equal("string", apply("string-one-and-only", bag("string", "a")), literal("string", "a")),
        True,
    ),
    (equal("string", apply("string-one-and-only", bag("string")), literal("string", "a")), ERROR),
    (
        equal(
            "string", apply("string-one-and-only", bag("string", "a", "a")), literal("string", "a")
        ),
        ERROR,
    ),
    (
        apply("integer-at-least-one-member-of", bag("integer", "1", "2"), bag("integer", "2", "3")),
        True,
    ),
    (apply("integer-at-least-one-member-of", bag("integer", "1"), bag("integer")), False),
    (apply("integer-subset", bag("integer", "1", "1"), bag("integer", "1", "2")), True),
    (apply("integer-subset", bag("integer", "1", "3"), bag("integer", "1", "2")), False),
    (apply("integer-set-equals", bag("integer", "1", "2", "2"), bag("integer", "2", "1")), True),
    (apply("integer-set-equals", bag("integer", "1"), bag("integer", "2", "1")), False),
    (
        apply(
            "string-set-equals",
            apply("string-intersection", bag("string", "a", "b", "b"), bag("string", "b", "c")),
            bag("string", "b"),
        ),
        True,
    ),
    (
        equal(
            "integer",
            apply(
                "string-bag-size",
                apply(
                    "string-union", bag("string", "a", "a"), bag("string", "b"), bag("string", "c")
                ),
            ),
            literal("integer", "3"),
        ),
        True,
    ),
    (
        apply(
            "dateTime-set-equals",
            bag("dateTime", "2002-03-22T08:23:47-05:00"),
            bag("dateTime", "2002-03-22T13:23:47Z"),
        ),
        True,
    ),
]


@pytest.mark.parametrize(("expression", "expected"), BAGS)
def test_bags_and_sets(expression: str, *, expected: bool | str):
    assert truth(expression) == expected


GT = function("integer-greater-than")
HIGHER = [
    (
        apply("any-of", function("string-equal"), literal("string", "a"), bag("string", "b", "a")),
        True,
    ),
    (apply("any-of", function("string-equal"), literal("string", "a"), bag("string")), False),
    (apply("any-of", GT, bag("integer", "1", "5"), literal("integer", "4")), True),
    (apply("all-of", GT, literal("integer", "10"), bag("integer", "9", "3")), True),
    (apply("all-of", GT, literal("integer", "10"), bag("integer", "9", "30")), False),
    (apply("all-of", GT, literal("integer", "10"), bag("integer")), True),
    (
        apply(
            "any-of-any", function("string-equal"), bag("string", "a", "b"), bag("string", "c", "b")
        ),
        True,
    ),
    (apply("any-of-any", function("string-equal"), bag("string", "a"), bag("string", "c")), False),
    (
        apply(
            "any-of-any",
            function("and"),
            bag("boolean", "true", "false"),
            TRUE,
            bag("boolean", "true"),
        ),
        True,
    ),
    (apply("all-of-any", GT, bag("integer", "10", "20"), bag("integer", "1", "15")), True),
    (apply("all-of-any", GT, bag("integer", "10", "0"), bag("integer", "1", "15")), False),
    (apply("all-of-any", GT, bag("integer"), bag("integer")), True),
    (apply("any-of-all", GT, bag("integer", "3", "5"), bag("integer", "1", "2", "3", "4")), True),
    (apply("any-of-all", GT, bag("integer", "3", "4"), bag("integer", "1", "2", "3", "4")), False),
    (apply("any-of-all", GT, bag("integer", "1"), bag("integer")), True),
    (apply("all-of-all", GT, bag("integer", "6", "5"), bag("integer", "1", "4")), True),
    (apply("all-of-all", GT, bag("integer", "6", "5"), bag("integer", "1", "5")), False),
    (
        apply(
            "string-set-equals",
            apply("map", function("string-normalize-to-lower-case"), bag("string", "A", "B")),
            bag("string", "a", "b"),
        ),
        True,
    ),
    (
        apply(
            "integer-set-equals",
            apply(
                "map", function("integer-add"), bag("integer", "1", "2"), literal("integer", "10")
            ),
            bag("integer", "11", "12"),
        ),
        True,
    ),
]


@pytest.mark.parametrize(("expression", "expected"), HIGHER)
def test_higher_order(expression: str, *, expected: bool):
    assert truth(expression) is expected


def test_higher_order_keeps_an_error_only_if_no_value_decides():
    divides = function("integer-divide")
    mapped = apply("map", divides, literal("integer", "1"), bag("integer", "1", "0"))
    assert truth(apply("integer-is-in", literal("integer", "1"), mapped)) == ERROR
    matches = function("rfc822Name-match")
    names = bag("rfc822Name", "a@b.c")
    assert (
        truth(apply("any-of", matches, bag("string", "?", "b.c"), literal("rfc822Name", "a@b.c")))
        is True
    )
    assert truth(apply("any-of-any", matches, bag("string", "?", "x.y"), names)) == ERROR


def test_old_identifiers_of_higher_order_functions_are_read():
    old = "urn:oasis:names:tc:xacml:1.0:function:"
    call = apply(
        f"{old}any-of", function("string-equal"), literal("string", "a"), bag("string", "a")
    )
    assert truth(call) is True


@pytest.mark.parametrize(
    "call",
    [
        apply("any-of", function("string-equal"), literal("string", "a"), literal("string", "a")),
        apply("any-of", function("string-equal"), bag("string"), bag("string")),
        apply("any-of", function("string-equal"), literal("integer", "1"), bag("string")),
        apply("any-of", function("integer-add"), literal("integer", "1"), bag("integer")),
        apply("any-of", function("string-bag-size"), bag("string")),
        apply("any-of", function("any-of"), literal("string", "a"), bag("string")),
        apply("any-of", function("string-equal")),
        apply("any-of", literal("string", "a"), bag("string")),
        apply("all-of-all", function("string-equal"), bag("string"), literal("string", "a")),
        function("string-equal"),
    ],
)
def test_misused_higher_order_functions_are_refused(call: str):
    with pytest.raises(InvalidInput):
        truth(call)


def test_higher_order_work_is_bounded():
    many = tuple(str(n) for n in range(1500))
    call = apply("any-of-any", function("string-equal"), designator("a"), designator("b"))
    request = subject(a=many, b=tuple(f"x{n}" for n in many))
    assert truth(call, request) == ERROR


MATCHES = [
    (
        apply(
            "x500Name-match",
            literal("x500Name", "O=Medico Corp,C=US"),
            literal("x500Name", "cn=John Smith,o=Medico Corp, c=US"),
        ),
        True,
    ),
    (
        apply(
            "x500Name-match",
            literal("x500Name", "cn=John Smith,o=Medico Corp, c=US"),
            literal("x500Name", "O=Medico Corp,C=US"),
        ),
        False,
    ),
    (
        apply(
            "x500Name-match", literal("x500Name", "cn=John"), literal("x500Name", "cn=John,c=US")
        ),
        False,
    ),
    (
        apply(
            "rfc822Name-match",
            literal("string", "Anderson@sun.com"),
            literal("rfc822Name", "Anderson@SUN.COM"),
        ),
        True,
    ),
    (
        apply(
            "rfc822Name-match",
            literal("string", "anderson@sun.com"),
            literal("rfc822Name", "Anderson@sun.com"),
        ),
        False,
    ),
    (
        apply("rfc822Name-match", literal("string", "SUN.com"), literal("rfc822Name", "a@sun.com")),
        True,
    ),
    (
        apply(
            "rfc822Name-match",
            literal("string", "sun.com"),
            literal("rfc822Name", "a@east.sun.com"),
        ),
        False,
    ),
    (
        apply(
            "rfc822Name-match",
            literal("string", ".east.sun.com"),
            literal("rfc822Name", "a@isrg.EAST.sun.com"),
        ),
        True,
    ),
    (
        apply(
            "rfc822Name-match",
            literal("string", ".east.sun.com"),
            literal("rfc822Name", "a@east.sun.com"),
        ),
        False,
    ),
    (apply("string-regexp-match", literal("string", "b+c"), literal("string", "aabbcc")), True),
    (apply("string-regexp-match", literal("string", "^b"), literal("string", "aabbcc")), False),
    (
        apply("anyURI-regexp-match", literal("string", "^http:"), literal("anyURI", "http://a")),
        True,
    ),
    (
        apply(
            "ipAddress-regexp-match",
            literal("string", r"^10\."),
            literal("ipAddress", "10.1.2.3:80"),
        ),
        True,
    ),
    (
        apply("dnsName-regexp-match", literal("string", r"\.com"), literal("dnsName", "a.com:80")),
        True,
    ),
    (
        apply("rfc822Name-regexp-match", literal("string", "@b"), literal("rfc822Name", "a@b.c")),
        True,
    ),
    (
        apply(
            "x500Name-regexp-match", literal("string", "o=.*US"), literal("x500Name", "o=A,c=US")
        ),
        True,
    ),
]


@pytest.mark.parametrize(("expression", "expected"), MATCHES)
def test_special_matches(expression: str, *, expected: bool):
    assert truth(expression) is expected


def test_bad_regular_expression_is_refused_as_literal_and_indeterminate_otherwise():
    with pytest.raises(InvalidInput, match="regexp-match"):
        truth(apply("string-regexp-match", literal("string", "("), literal("string", "a")))
    pattern = apply("string-one-and-only", designator("p"))
    call = apply("string-regexp-match", pattern, literal("string", "a"))
    assert truth(call, subject(p="(")) == ERROR
    assert truth(call, subject(p="a")) is True


@pytest.mark.parametrize(
    "call",
    [
        apply("string-equal", literal("string", "a")),
        apply("string-equal", literal("string", "a"), literal("integer", "1")),
        apply("string-equal", literal("string", "a"), bag("string", "a")),
        apply("integer-add", literal("integer", "1")),
        apply("not", TRUE, TRUE),
        apply("no-such-function", TRUE),
        apply("urn:oasis:names:tc:xacml:1.0:function:xpath-node-count", literal("string", "/a")),
        literal("string", "a"),
        bag("boolean", "true"),
        apply("integer-equal", literal("integer", "1.5"), literal("integer", "1")),
        '<AttributeValue DataType="urn:no-such-type">a</AttributeValue>',
    ],
)
def test_wrong_types_arities_and_names_are_refused_at_load(call: str):
    with pytest.raises(InvalidInput) as caught:
        load(policy("p", rule("r", "Permit", f"<Condition>{call}</Condition>")))
    assert caught.value.diagnostics
    assert all(d.code.startswith("xacml-") for d in caught.value.diagnostics)


def test_every_function_has_one_identifier_and_a_signature():
    assert len(FUNCTIONS) > 270
    assert not set(FUNCTIONS) & set(HIGHER_ORDER)
    for found in FUNCTIONS.values():
        assert found.signature()
        assert found.minimum() <= len(found.params)
