"""The state machine: commands, receipts, replay. It knows no HTTP and no SQL."""
