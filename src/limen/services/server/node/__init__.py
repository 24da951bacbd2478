"""The agents' side of the server: gRPC over mutual TLS, each call checked against its node."""
