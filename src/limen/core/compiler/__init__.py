"""Snapshot and workload to `NodePlan` and diagnostics; incremental, deterministic."""
