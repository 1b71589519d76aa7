"""Storage: SQLite journal, spool, window store, feedback, encryption, atomic files."""
