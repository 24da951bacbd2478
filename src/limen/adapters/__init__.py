"""One outside thing each: stores, key files, the clock, Envoy processes."""
