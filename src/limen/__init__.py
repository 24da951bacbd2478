"""Limen: zero-trust security for microservices. `ARCHITECTURE.md` names the rooms."""

__version__ = "0.1.0"
