"""`NodePlan` to Envoy protobuf. The only core room that knows Envoy."""
