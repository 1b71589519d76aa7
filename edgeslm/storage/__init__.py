"""A node's files: SQLite journal, spool, window store, feedback, encryption, atomic files."""
