"""Where logs are kept: memory, SQLite and PostgreSQL, behind the protocol in `sessions.store`."""
