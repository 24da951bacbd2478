"""Ways in that others left open, and the test that shows each closed at a real Envoy.

`test_bypasses.py` keeps the table true. `token` is a mechanism of the corpus of tokens
(`tests/core/tokens/corpus.py`), all of which goes through Envoy too.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTHORIZATION = "e2e/test_envoy_authorization.py"
TOKENS = "e2e/test_envoy_tokens.py"
USERS = "e2e/test_envoy_user_context.py"
EDGE = "e2e/test_envoy_edge.py"
PERMISSIVE = "e2e/test_envoy_permissive.py"
AGREEMENT = "e2e/test_envoy_agreement.py"
POLICY = "e2e/test_envoy_policy_bypasses.py"
CORPUS = "test_one_corpus_through_envoy_and_through_our_reader"
SPELLINGS = "test_no_spelling_of_a_denied_path_reaches_the_application_as_that_path"


@dataclass(frozen=True)
class Bypass:
    """`ids` stand in the test's docstring or name."""

    mechanism: str
    file: str
    test: str
    ids: tuple[str, ...] = ()
    token: str = ""


def token(mechanism: str, name: str = "") -> Bypass:
    return Bypass(mechanism, TOKENS, CORPUS, token=name or mechanism)


BYPASSES = (
    # Paths, hosts, headers
    Bypass("dot segments", AUTHORIZATION, SPELLINGS, ("2019-9901",)),
    Bypass("? or # after an exact path", AUTHORIZATION, SPELLINGS, ("2020-8595", "2021-39156")),
    Bypass("repeated and escaped slashes", AUTHORIZATION, SPELLINGS, ("2021-31920",)),
    Bypass("; and ..;", AUTHORIZATION, SPELLINGS, ("2026-73511", "-73551", "-73553")),
    Bypass("encoded NUL", AUTHORIZATION, SPELLINGS, ("%00",)),
    Bypass("* in a path", AUTHORIZATION,
           "test_template_takes_whole_segments_and_any_character", ("2025-46821",)),
    Bypass("forged original path", AUTHORIZATION,
           "test_forged_original_path_and_other_internal_headers_change_nothing", ("2023-27487",)),
    Bypass("white space around a value", AUTHORIZATION,
           "test_white_space_around_a_value_hides_nothing", ("2019-18802",)),
    Bypass("first, last or joined of repeated headers", AGREEMENT,
           "test_each_value_of_a_repeated_header_counts",
           ("2020-25017", "2021-32777", "2026-26308")),
    Bypass("bytes that are no UTF-8", AUTHORIZATION,
           "test_bytes_that_are_no_utf8_open_nothing", ("2026-73552",)),
    Bypass("host case, host with port", AUTHORIZATION,
           "test_host_is_compared_without_case_and_with_or_without_port", ("2021-39155",)),
    Bypass("mixed-case scheme", AUTHORIZATION,
           "test_absolute_form_and_host_header_agree", ("2023-35944",)),
    Bypass("internal and identity headers from outside", EDGE,
           "test_identity_headers_from_outside_are_replaced", ("2024-45806",)),
    Bypass("token headers from outside", TOKENS,
           "test_output_headers_come_from_the_token_and_never_from_the_client", ("2024-45806",)),
    # Tokens
    token("alg none, in any spelling", "alg none"),
    Bypass("malformed RSA signatures", TOKENS,
           "test_malformed_rsa_signatures_made_anew_around_claims", ("RSA forgeries",)),
    token("RS to HS with the public key as secret", "RS to HS confusion"),
    token("kid as path or SQL"),
    token("kid flood"),
    token("kid of a wrong JSON type (2026-18675)", "kid of a wrong type"),
    token("jku, x5u, jwk, x5c of the token", "key source in the token trusted"),
    token("unknown crit accepted"),
    token("duplicate claims"),
    token("duplicate header keys"),
    token("JSON against compact serialisation", "other serialisations"),
    token("nested JWE without an inner signature"),
    token("zip bomb"),
    token("huge p2c"),
    token("500 KB token", "oversized token"),
    Bypass(
        "500 MB header",
        AUTHORIZATION,
        "test_headers_of_500_kb_are_refused_and_the_port_goes_on",
        ("500 MB",),
    ),
    token("deep JSON", "malformed claims"),
    token("exp missing"),
    token("exp as text, 1e99", "exp of a wrong type or size"),
    token("future iat"),
    token("typ of another token kind"),
    token("key for encryption verifies", "use: enc verifies"),
    token("partial issuer match"),
    token("issuer unknown under may be missing"),
    token("audience ignored"),
    Bypass("key removed from the set", TOKENS,
           "test_removed_key_bites_at_once_on_an_open_connection"),
    Bypass("no keys lead to a default key", TOKENS,
           "test_issuer_without_keys_refuses_its_tokens_and_nothing_else", ("2026-31837",)),
    Bypass("cache key of exchanged tokens without policy or audience", USERS,
           "test_another_policy_does_not_use_what_was_kept_for_the_first",
           ("2021-32701", "2026-33496")),
    Bypass("poisoned cache of exchanged tokens", USERS,
           "test_a_poisoned_cache_is_refused_by_the_verification"),
    Bypass("revoked token goes on from the cache", USERS,
           "test_a_revoked_token_is_asked_about_again_at_once"),
    Bypass("user context header from another caller", USERS,
           "test_without_a_token_there_is_no_user"),
    Bypass("cache key without audience", TOKENS,
           "test_cached_token_is_not_good_for_another_audience", ("2021-32701", "2026-33496")),
    # Policy compiled wrongly
    Bypass("broad allow over a specific deny", AUTHORIZATION,
           "test_each_layer_must_allow_and_any_may_deny", ("16873",)),
    Bypass("dry-run rules enforced, or the reverse", AUTHORIZATION,
           "test_rules_on_trial_are_reported_and_enforced_nowhere", ("Dry-run",)),
    Bypass("shadowed deny", POLICY, "test_denial_is_shadowed_by_nothing"),
    Bypass("unknown when key drops the rule", POLICY,
           "test_unknown_when_key_leaves_what_was_enforced"),
    Bypass("empty rule list read as allow", POLICY, "test_empty_list_of_rules_allows_nothing"),
    Bypass("no document read as allow", POLICY,
           "test_no_document_refuses", ("2021-36213",)),
    Bypass("policy of another namespace", POLICY,
           "test_policy_of_another_namespace_does_not_reach_here", ("2026-002",)),
    Bypass("policy of another mesh", POLICY,
           "test_policy_of_another_mesh_does_not_reach_here", ("one mesh reaches another",)),
    Bypass("HTTP-only DENY on a TCP port", POLICY,
           "test_denial_by_http_fields_at_a_port_without_requests_refuses_all",
           ("HTTP-only DENY on a TCP port",)),
    Bypass("gateway ports read as container ports", POLICY,
           "test_ports_at_a_gateway_are_its_own", ("Gateway ports read as container ports",)),
    Bypass("missing identity skips the check", PERMISSIVE,
           "test_plaintext_caller_has_no_identity_whatever_it_says"),
    Bypass("plaintext of permissive mode past the rules", POLICY,
           "test_plaintext_in_permissive_mode_meets_every_rule"),
    Bypass("proxy that lacks a matcher", EDGE,
           "test_bad_resource_is_named_and_the_previous_configuration_stays"),
)  # fmt: skip
