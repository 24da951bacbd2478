"""`limen demo user-context`: a user's way from an outside provider through three services."""
