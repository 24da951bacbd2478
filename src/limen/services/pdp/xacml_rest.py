"""The door of the XACML REST profile: requests and responses in XML and in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml.json_request import read_json_request
from limen.core.policy.xacml.json_response import write_json_response
from limen.core.policy.xacml.xml_request import read_xml_request
from limen.core.policy.xacml.xml_response import write_xml_response
from limen.services.pdp.door import DoorReply, json_reply

if TYPE_CHECKING:
    from limen.services.pdp.door import DoorRequest
    from limen.services.pdp.judge import Judge

PDP = "/pdp"
XML, JSON = "application/xacml+xml", "application/xacml+json"
_READ = {XML: "xml", "application/xml": "xml", JSON: "json", "application/json": "json"}
HOME = f"""<resources xmlns="http://ietf.org/ns/home-documents"><resource
 rel="http://docs.oasis-open.org/ns/xacml/relation/pdp" href="{PDP}"/></resources>
"""


def home() -> DoorReply:
    """The entry point: where the decision point is."""
    return DoorReply(200, HOME.encode(), {"content-type": "application/home+xml"})


def evaluate(judge: Judge, request: DoorRequest) -> DoorReply:
    """The response in the form that is accepted, else in that of the request."""
    form = _READ.get(_type(request.headers.get("content-type", "")))
    if form is None:
        return DoorReply(415, b"send application/xacml+xml or application/xacml+json\n")
    accepted = {_type(part) for part in request.headers.get("accept", "*/*").split(",")}
    chosen = next((found for kind, found in _READ.items() if kind in accepted), None)
    if chosen is None and not accepted & {"*/*", "application/*", ""}:
        return DoorReply(406, b"accept application/xacml+xml or application/xacml+json\n")
    read = read_json_request if form == "json" else read_xml_request
    response = judge.respond(read(request.body))
    if response is None:
        return json_reply({"error": "the policies are not XACML"}, 404)
    if (chosen or form) == "json":
        return DoorReply(200, write_json_response(response), {"content-type": JSON})
    return DoorReply(200, write_xml_response(response), {"content-type": XML})


def _type(header: str) -> str:
    return header.partition(";")[0].strip().lower()
