"""Documents to model, one file per family. Imports `core/model` only.

`read_resources` goes all the way from bytes; `parse_documents`, `validate` and `to_resource` are
its steps; `stored_form` is what a server stores of a document, `document_from_stored` reads it
back. `to_resource` is the only way from a document to the model. `expired` needs the time, which
the documents alone do not say.
"""

from limen.core.dialects.document import Document, JsonObject, JsonValue
from limen.core.dialects.envelope import document_from_stored, parse_documents, stored_form
from limen.core.dialects.resources import duplicates, read_resources, to_resource, validate
from limen.core.dialects.secret import expired
from limen.core.dialects.yaml_reader import MAX_BYTES

__all__ = [
    "MAX_BYTES",
    "Document",
    "JsonObject",
    "JsonValue",
    "document_from_stored",
    "duplicates",
    "expired",
    "parse_documents",
    "read_resources",
    "stored_form",
    "to_resource",
    "validate",
]
