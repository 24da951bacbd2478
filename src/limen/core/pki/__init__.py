"""Certificate profiles: one module builds a template, another independently judges the result."""
