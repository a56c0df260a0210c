"""Where logs are kept: memory and SQLite, behind the protocol in `sessions.store`."""
