"""The control plane in one process: API, authority, compiler, xDS."""
