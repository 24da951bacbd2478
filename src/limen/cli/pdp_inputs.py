"""What the commands of the decision point are given: policies, requests, sources."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limen.adapters.policy_files import language_of, read_bounded, read_policies, read_rego
from limen.core.policy.rego.source import DEFAULT_ENTRY, MAX_DATA_BYTES
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.engine import load_policies
from limen.core.policy.xacml.json_request import read_json_request
from limen.core.policy.xacml.limits import MAX_REQUEST_BYTES
from limen.core.policy.xacml.xml_request import read_xml_request
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limen.adapters.attributes.point import InformationPoint
    from limen.adapters.rego_process import RegoSet
    from limen.core.policy.engine import PolicyEngine
    from limen.core.policy.sources import Asking, SourceBook
    from limen.core.policy.xacml.engine import Engine
    from limen.core.policy.xacml.request import XacmlRequest

Found = TypeVar("Found")
PATH = click.Path(path_type=Path)

policy_option = click.option(
    "--policy",
    "policies",
    multiple=True,
    type=PATH,
    metavar="PATH",
    help="Policy file, or directory of .xml or .rego files; repeatable.",
)
root_option = click.option(
    "--root", metavar="ID", help="The policy to begin with; in Rego the decision, as PACKAGE/RULE."
)
data_option = click.option(
    "--data",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Data document of Rego policies, JSON; repeatable.",
)
source_option = click.option(
    "--source",
    "sources",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="File of AttributeSources, asked for what a request lacks; repeatable.",
)
request_option = click.option(
    "--request",
    "request_file",
    type=PATH,
    metavar="FILE",
    help="Request, XML or JSON (Rego: the input document); - for standard input.",
)


def now() -> dt.datetime:
    """The moment of a decision."""
    return dt.datetime.now(dt.UTC)


def xacml_engine(policies: Sequence[Path], root: str | None) -> Engine:
    """The compiled policies. Raises `InvalidInput` with every finding."""
    files = read_policies(policies)
    return load_policies([f.document for f in files], root, files=[f.path for f in files])


def rego_set(policies: Sequence[Path], root: str | None, data: Sequence[Path]) -> RegoSet:
    """The texts of Rego policies. Raises `InvalidInput`."""
    from limen.adapters.rego_process import RegoSet  # noqa: PLC0415 - loads the engine

    documents = tuple(json_text(path, MAX_DATA_BYTES) for path in data)
    return RegoSet(tuple(read_rego(policies)), documents, root or DEFAULT_ENTRY)


def loaded(
    policies: Sequence[Path],
    root: str | None,
    data: Sequence[Path],
    book: SourceBook | None = None,
) -> PolicyEngine:
    """The engine of the policies, tried out first where the language allows harm."""
    if language_of(policies) == "xacml":
        if data:
            raise click.UsageError("--data is for Rego policies")
        return XacmlPolicyEngine(xacml_engine(policies, root), book)
    from limen.adapters.rego_process import try_load  # noqa: PLC0415 - loads the engine
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - as above

    found = rego_set(policies, root, data)
    try_load(found)
    return load_rego(found.modules, [text.encode() for text in found.data], found.entry)


def information_point(sources: Sequence[Path]) -> InformationPoint | None:
    """The sources of the files; None: none are named."""
    if not sources:
        return None
    from limen.adapters.attributes.reading import open_point  # noqa: PLC0415 - loads clients

    return open_point(sources)


def book_of(point: InformationPoint | None) -> SourceBook | None:
    """Its sources."""
    return None if point is None else point.book


def decided(point: InformationPoint | None, evaluate: Callable[[Asking | None], Found]) -> Found:
    """What `evaluate` gives when the sources have answered."""
    if point is None:
        return evaluate(None)
    asking = point.asking()

    async def decide() -> Found:
        return await point.decide(asking, lambda: evaluate(asking))

    return asyncio.run(decide())


def with_sources(point: InformationPoint | None, document: Any) -> Any:
    """The input document of a Rego policy with the attributes of the sources.

    Raises `AttributeUnavailable`.
    """
    if point is None:
        return document
    from limen.core.policy.rego.supply import access_request_of, supplied  # noqa: PLC0415 - Rego
    from limen.core.policy.request_values import values_in  # noqa: PLC0415 - as above

    if not isinstance(document, dict):
        message = "the input document is no object: it can hold no attributes of sources"
        raise InvalidInput(message, code="rego-data")
    request = access_request_of(document)

    def ask(asking: Asking | None) -> Mapping[str, Any]:
        assert asking is not None  # noqa: S101 - there is a point
        return supplied(asking, lambda name: values_in(request, name))

    return {**document, "sources": decided(point, ask)}


def json_text(path: Path, limit: int) -> str:
    """The text of a JSON document. Raises `InvalidInput`."""
    document = read_input(path, limit)
    try:
        if len(document) > limit:
            raise InvalidInput(f"{path} has more than {limit} bytes", code="too-large")
        text = document.decode("utf-8")
        json.loads(text)
    except (ValueError, RecursionError):
        message = f"{path} is not JSON"
        raise InvalidInput(message, code="rego-data", hint="check the file") from None
    return text


def xacml_request(path: Path) -> tuple[XacmlRequest, str]:
    """The request in a file and its form, `xml` or `json`. Raises `InvalidInput`."""
    document = read_input(path, MAX_REQUEST_BYTES)
    if document.lstrip()[:1] == b"{":
        return read_json_request(document), "json"
    return read_xml_request(document, str(path)), "xml"


def read_input(path: Path, limit: int) -> bytes:
    """The bytes of a file or of standard input, one more than `limit` at most."""
    if str(path) == "-":
        return sys.stdin.buffer.read(limit + 1)
    return read_bounded(path, limit)
