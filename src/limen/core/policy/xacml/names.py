"""Identifiers of the XACML 3.0 core specification (appendix B) and its profiles. Names only."""

from __future__ import annotations

NAMESPACE = "urn:oasis:names:tc:xacml:3.0:core:schema:wd-17"

XSD = "http://www.w3.org/2001/XMLSchema#"
V1 = "urn:oasis:names:tc:xacml:1.0:"
V11 = "urn:oasis:names:tc:xacml:1.1:"
V2 = "urn:oasis:names:tc:xacml:2.0:"
V3 = "urn:oasis:names:tc:xacml:3.0:"

STRING = f"{XSD}string"
BOOLEAN = f"{XSD}boolean"
INTEGER = f"{XSD}integer"
DOUBLE = f"{XSD}double"
TIME = f"{XSD}time"
DATE = f"{XSD}date"
DATE_TIME = f"{XSD}dateTime"
DAY_TIME_DURATION = f"{XSD}dayTimeDuration"
YEAR_MONTH_DURATION = f"{XSD}yearMonthDuration"
ANY_URI = f"{XSD}anyURI"
HEX_BINARY = f"{XSD}hexBinary"
BASE64_BINARY = f"{XSD}base64Binary"
RFC822_NAME = f"{V1}data-type:rfc822Name"
X500_NAME = f"{V1}data-type:x500Name"
IP_ADDRESS = f"{V2}data-type:ipAddress"
DNS_NAME = f"{V2}data-type:dnsName"
XPATH_EXPRESSION = f"{V3}data-type:xpathExpression"

_XQUERY_2002 = "http://www.w3.org/TR/2002/WD-xquery-operators-20020816#"
DEPRECATED_DATATYPES = {
    f"{_XQUERY_2002}dayTimeDuration": DAY_TIME_DURATION,
    f"{_XQUERY_2002}yearMonthDuration": YEAR_MONTH_DURATION,
}
"""Old names of a datatype (core, A.4) to the present one."""

ACCESS_SUBJECT = f"{V1}subject-category:access-subject"
RESOURCE = f"{V3}attribute-category:resource"
ACTION = f"{V3}attribute-category:action"
ENVIRONMENT = f"{V3}attribute-category:environment"

CURRENT_TIME = f"{V1}environment:current-time"
CURRENT_DATE = f"{V1}environment:current-date"
CURRENT_DATE_TIME = f"{V1}environment:current-dateTime"

STATUS_OK = f"{V1}status:ok"
STATUS_MISSING_ATTRIBUTE = f"{V1}status:missing-attribute"
STATUS_SYNTAX_ERROR = f"{V1}status:syntax-error"
STATUS_PROCESSING_ERROR = f"{V1}status:processing-error"

MULTIPLE_CONTENT_SELECTOR = f"{V3}profile:multiple:content-selector"
CONTENT_SELECTOR = f"{V3}content-selector"

XPATH_1 = "http://www.w3.org/TR/1999/REC-xpath-19991116"


def is_xpath_1(version: str) -> bool:
    """Whether `version` names XPath 1.0 (old documents differ in case), or nothing."""
    return version.lower() in ("", XPATH_1.lower())
