"""Bounds that keep a hostile policy or request cheap. Beyond one: refused, or Indeterminate."""

from __future__ import annotations

MAX_POLICY_BYTES = 8 * 1024 * 1024
"""One policy document."""
MAX_REQUEST_BYTES = 1024 * 1024
"""One request document, XML or JSON."""
MAX_XML_DEPTH = 128
"""Nesting of elements in any document."""
MAX_EXPRESSION_DEPTH = 48
"""Nesting of expressions inside one another."""
MAX_POLICY_DEPTH = 24
"""Nesting of policy sets, references included."""
MAX_EXPANDED_POLICIES = 200_000
"""Rules and policies of the whole tree, each counted as often as it is referenced."""
MAX_ACCESS_CALLS = 100
"""Whole evaluations that `access-permitted` may begin for one request."""
MAX_ACCESS_DEPTH = 2
"""Evaluations by `access-permitted` inside one another."""
MAX_INTEGER_DIGITS = 4000
"""Of an integer, read or computed."""
MAX_STRING_LENGTH = 1024 * 1024
"""Characters of a string that a function makes."""
MAX_REQUEST_VALUES = 20_000
"""Attribute values of one request."""
MAX_INDIVIDUAL_REQUESTS = 1_000
"""Individual decision requests that one request may stand for."""
MAX_INDIVIDUAL_VALUES = 200_000
"""Attribute values of all individual requests together."""
MAX_WORK = 1_000_000
"""Steps of one request: children of policies, calls of higher-order functions, regex states."""
MAX_REGEX_LENGTH = 4_096
"""Characters of a regular expression."""
MAX_REGEX_STATES = 2_000
"""States of its automaton; a counted repetition costs its count."""
MAX_XPATH_LENGTH = 4_096
"""Characters of an XPath expression."""
MAX_CONTENT_PAIRS = 60_000
"""Nodes of a `Content`, each counted as often as it has elements above it, and once more."""
