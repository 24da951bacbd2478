"""Rego policies, run by the Rust engine `regorus` behind a small door.

`load_rego` refuses what the engine lacks, by name; `RegoEngine.judge` gives a verdict. The engine
has no bound of its own on the work of a policy: whoever runs policies of others does so in a
process that may end (`adapters/rego_process`).
"""
