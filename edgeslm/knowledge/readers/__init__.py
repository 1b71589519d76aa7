"""File readers: convert each supported format to a document."""
