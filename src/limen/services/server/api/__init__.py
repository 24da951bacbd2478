"""The REST interface: FastAPI handlers that check, ask `authorize`, and call the parts."""
