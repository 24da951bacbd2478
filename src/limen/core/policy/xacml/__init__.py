"""XACML 3.0, whole: policies are compiled once to closures and judge requests without I/O.

`engine` is the door (`load_policies`, `Engine`); `xml_request`, `json_request` and their
`_response` twins read and write documents. No clock, file or socket: the current time arrives as
an argument. What the standard leaves open and what is refused stands in docs/xacml.md.
"""
