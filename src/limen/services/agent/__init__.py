"""The agent: identities, proxies and their configuration on one host, for one mesh."""
