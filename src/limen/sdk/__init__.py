"""What applications import: small, few dependencies."""
