"""The delta discovery protocol as a state machine: event in, replies out."""
