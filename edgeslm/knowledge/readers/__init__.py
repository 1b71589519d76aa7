"""File readers: each supported format becomes a document."""
