"""What a resource means, as frozen parsed values. Nothing here knows YAML, Envoy or a socket."""
