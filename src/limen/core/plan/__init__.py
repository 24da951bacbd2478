"""What one proxy must do, before anyone thinks of Envoy. Types only."""
