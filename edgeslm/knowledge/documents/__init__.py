"""Document values: passages, sentences, tables and dates, without file access or index."""
