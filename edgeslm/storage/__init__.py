"""Storage of a node: SQLite journal, spool, window store, feedback, encryption, atomic files."""
