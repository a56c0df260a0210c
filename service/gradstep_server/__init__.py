"""gradstep-server: learning-rate schedules and optimizer steps as a service."""

__version__ = "0.1.0"
