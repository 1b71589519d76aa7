"""Document data: passages, sentences, tables and dates. The package reads no files and uses no index."""
