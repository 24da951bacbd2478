"""Server parts and agent: settings, wiring, handlers. They do not import one another."""
