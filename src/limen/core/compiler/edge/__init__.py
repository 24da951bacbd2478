"""Gateways: documents of edge and routing to the plan of a gateway's proxy, and their findings.

The same code compiles and finds: what cannot be served is said where it is left out.
"""
