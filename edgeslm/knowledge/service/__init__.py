"""The knowledge process: searches, watched folders, stored messages, quarantine."""
