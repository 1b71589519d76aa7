"""Document collections: files become passages that are searched by words and by meaning."""
