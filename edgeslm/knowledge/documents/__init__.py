"""Document values: passages, sentences, tables, dates. No files, no index."""
