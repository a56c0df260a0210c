"""The embedded store: a directory with a catalogue and one SQLite file per session."""
