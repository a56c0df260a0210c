"""Others that do a step's work, as small servers of their own: ``python -m bench.peers.NAME``."""
