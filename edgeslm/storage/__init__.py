"""Storage on the node's disk: SQLite journal, spool, window store, feedback, encryption, atomic files."""
