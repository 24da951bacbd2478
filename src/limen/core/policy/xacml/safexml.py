"""Bytes to an XML tree: no document type, no entities, no network, bounded in size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lxml import etree

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from lxml.etree import _Element

_ENCODING = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_ENCODINGS = frozenset((b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1"))


def parse_xml(document: bytes, limit: int, what: str, file: str = "") -> _Element:
    """The root element of `document` (at most `limit` bytes). Raises `InvalidInput`."""
    if len(document) > limit:
        raise _invalid(what, "too-large", f"more than {limit} bytes", file)
    declared = _ENCODING.match(document.removeprefix(b"\xef\xbb\xbf"))
    if b"\0" in document[:64] or (declared and declared[1].lower() not in _ENCODINGS):
        raise _invalid(what, "bad-encoding", "not in UTF-8", file, "save it as UTF-8")
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        hint = "remove the document type; entities are never read"
        raise _invalid(what, "doctype", "it has a document type", file, hint)
    try:
        root = etree.fromstring(document, parser=_parser())
    except etree.XMLSyntaxError as error:
        line = error.lineno or 0
        raise _invalid(what, "not-xml", f"not XML: {error.msg}", file, line=line) from None
    if root is None or root.getroottree().docinfo.doctype:
        raise _invalid(what, "doctype", "it has a document type", file)
    return root


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        remove_comments=False,
        remove_pis=False,
        strip_cdata=True,
    )


def _invalid(
    what: str, code: str, message: str, file: str, hint: str = "", *, line: int = 0
) -> InvalidInput:
    code = f"xacml-{code}"
    found = Diagnostic(Severity.ERROR, code, message, file=file, line=line, hint=hint)
    return InvalidInput(f"{what}: {message}", code=code, hint=hint, diagnostics=(found,))
