"""Which functions of OPA a policy may call. Tables only; a test holds them to the engine."""

from __future__ import annotations

_NATIVE = """
abs array.concat array.reverse array.slice base64.decode base64.encode base64.is_valid
base64url.decode base64url.encode base64url.encode_no_pad bits.and bits.lsh bits.negate bits.or
bits.rsh bits.xor ceil concat contains count endswith floor format_int glob.match glob.quote_meta
graph.reachable graph.reachable_paths hex.decode hex.encode indexof indexof_n intersection is_array
is_boolean is_null is_number is_object is_set is_string json.filter json.is_valid json.marshal
json.marshal_with_options json.match_schema json.patch json.remove json.unmarshal json.verify_schema
lower max min net.cidr_contains net.cidr_expand net.cidr_is_valid numbers.range numbers.range_step
object.filter object.get object.keys object.remove object.subset object.union object.union_n product
rand.intn regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace
regex.split regex.template_match replace round semver.compare semver.is_valid sort split sprintf
startswith strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n
strings.reverse substring sum time.add_date time.clock time.date time.diff time.format time.now_ns
time.parse_duration_ns time.parse_ns time.parse_rfc3339_ns time.weekday to_number trace trim
trim_left trim_prefix trim_right trim_space trim_suffix type_name union units.parse
units.parse_bytes upper urlquery.decode urlquery.decode_object urlquery.encode
urlquery.encode_object uuid.parse uuid.rfc4122 walk yaml.is_valid yaml.marshal yaml.unmarshal
"""
NATIVE = frozenset(_NATIVE.split()) | {"print"}
"""Functions of the engine that policies may call."""

WITHHELD = {
    "http.send": "a decision does no input or output: declare the data, or an attribute source",
    "opa.runtime": "a decision does not read the environment of its process",
}
"""Functions that the engine has and policies may not call, and what to do."""

_ABSENT = """
crypto.hmac.equal crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512 crypto.md5
crypto.parse_private_keys crypto.sha1 crypto.sha256 crypto.x509.parse_and_verify_certificates
crypto.x509.parse_and_verify_certificates_with_options crypto.x509.parse_certificate_request
crypto.x509.parse_certificates crypto.x509.parse_keypair crypto.x509.parse_rsa_private_key
graphql.is_valid graphql.parse graphql.parse_and_verify graphql.parse_query graphql.parse_schema
graphql.schema_is_valid io.jwt.encode_sign io.jwt.encode_sign_raw net.cidr_contains_matches
net.cidr_intersects net.cidr_merge net.cidr_overlap net.lookup_ip_addr providers.aws.sign_req
regex.globs_match rego.metadata.chain rego.metadata.rule rego.parse_module strings.render_template
any all array.flatten cast_array cast_boolean cast_null cast_object cast_set cast_string
re_match set_diff
"""
ABSENT = frozenset(_ABSENT.split())
"""Functions that OPA has and this engine lacks: refused at load, by name."""
