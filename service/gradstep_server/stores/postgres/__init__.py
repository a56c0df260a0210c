"""The store for several replicas: one PostgreSQL database."""
