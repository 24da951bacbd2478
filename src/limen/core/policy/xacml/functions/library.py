"""The list of all functions. Nothing registers itself: a family that is not named here is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml.functions import (
    access,
    arithmetic,
    bags,
    equality,
    higher,
    logic,
    special,
    strings,
    xpath,
)
from limen.core.policy.xacml.names import V1

if TYPE_CHECKING:
    from limen.core.policy.xacml.functions.function import Function
    from limen.core.policy.xacml.functions.higher import HigherOrder

FAMILIES: tuple[tuple[str, tuple[Function, ...]], ...] = (
    ("Equality and order", tuple(equality.functions())),
    ("Arithmetic, numeric conversion, dates", tuple(arithmetic.functions())),
    ("Logic", tuple(logic.functions())),
    ("Strings, URIs, conversion", tuple(strings.functions())),
    ("Bags and sets", tuple(bags.functions())),
    ("Regular expressions and special matches", tuple(special.functions())),
    ("XPath", tuple(xpath.functions())),
    ("Evaluation within evaluation", tuple(access.functions())),
)

FUNCTIONS: dict[str, Function] = {f.uri: f for _, family in FAMILIES for f in family}
HIGHER_ORDER: dict[str, HigherOrder] = {f.uri: f for f in higher.functions()}

REFUSED: dict[str, str] = {
    f"{V1}function:xpath-node-count": "use the 3.0 function, over an xpathExpression",
    f"{V1}function:xpath-node-equal": "use the 3.0 function, over an xpathExpression",
    f"{V1}function:xpath-node-match": "use the 3.0 function, over an xpathExpression",
}
"""Functions of old versions that have no meaning in a 3.0 request, and what to do."""
