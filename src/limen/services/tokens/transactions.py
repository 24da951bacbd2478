"""Transaction tokens at the token endpoint: `requested_token_type` `…:txn_token`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.tokens.encoding import Malformed, parse_json
from limen.core.tokens.transaction import (
    MAX_CONTEXT_CHARS,
    TransactionRequest,
    TransactionService,
    decide_transaction,
)
from limen.services.tokens.replies import OAuthError

if TYPE_CHECKING:
    from limen.core.tokens.exchange import Issued, Refused
    from limen.services.tokens.clients import Client
    from limen.services.tokens.forms import Form
    from limen.services.tokens.state import Rules
    from limen.services.tokens.subjects import Subject


def decide(  # noqa: PLR0917 - the request in its parts, and who issues when
    form: Form, client: Client, subject: Subject, rules: Rules, issuer: str, now_s: float, txn: str
) -> Issued | Refused:
    """Begin a transaction or renew its token. Raises OAuthError for what is malformed."""
    if "actor_token" in form.one or form.many.get("resource"):
        raise OAuthError("invalid_request", "a transaction has no actor token and no resource")
    audiences = form.many.get("audience", ())
    wish = TransactionRequest(
        client=client.name,
        subject=subject.token,
        scopes=frozenset(form.one.get("scope", "").split(" ")) - {""},
        audience=audiences[0] if len(audiences) == 1 else "",
        txn=txn,
        details=_object(form, "request_details"),
        context=_object(form, "request_context"),
        certificate_sha256=client.certificate_sha256,
    )
    grants = rules.rights.transactions.get(client.name, ())
    service = TransactionService(issuer, rules.trust_domain)
    return decide_transaction(wish, grants, service, now_s)


def _object(form: Form, name: str) -> dict[str, Any]:
    text = form.one.get(name, "{}")
    if len(text) > MAX_CONTEXT_CHARS:
        raise OAuthError("invalid_request", f"{name} is too long", "parameter-too-large")
    try:
        value = parse_json(text.encode(), max_depth=8, max_items=512)
    except Malformed:
        value = None
    if not isinstance(value, dict):
        raise OAuthError("invalid_request", f"{name} is not a JSON object", "json-malformed")
    return value
