"""The delta discovery protocol as a state machine: event in, replies out.

`delta` serves (server towards agents, agent towards Envoy), `client` is the agent's other half.
"""
