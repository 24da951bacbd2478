"""A file of AttributeSources, as `limen pdp --source` takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings
from limen.core.dialects.envelope import parse_documents
from limen.core.dialects.fields import obj
from limen.core.dialects.kinds import BY_NAME
from limen.core.dialects.limen_sources import to_attribute_source
from limen.core.dialects.schema import check
from limen.core.model.diagnostic import Diagnostic, has_errors
from limen.core.model.resource import ATTRIBUTE_SOURCE

if TYPE_CHECKING:
    from limen.core.model.attribute_source import AttributeSource

_KNOWN = {ATTRIBUTE_SOURCE: BY_NAME[ATTRIBUTE_SOURCE]}


def read_sources(
    data: bytes, file: str = ""
) -> tuple[tuple[AttributeSource, ...], tuple[Diagnostic, ...]]:
    """Every source of a file that is understood in full, and all findings. Never raises."""
    documents, diagnostics = parse_documents(data, file, _KNOWN)
    found = list(diagnostics)
    sources = []
    for document in documents:
        findings = Findings(document.file, document.lines, document.shown)
        good = check(_KNOWN[document.kind].schema, document.body, "", findings)
        found += (*document.problems, *findings.diagnostics)
        if good and not has_errors(document.problems):
            metadata, spec = obj(document.body, "metadata"), obj(document.body, "spec")
            sources.append(to_attribute_source(document.key.namespace, metadata, spec))
    return tuple(sources), tuple(found)
