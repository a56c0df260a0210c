"""The reference pages: what the classes say of every kind, as Markdown and pictures."""

from gradstep_server.reference.pages import pages

__all__ = ["pages"]
