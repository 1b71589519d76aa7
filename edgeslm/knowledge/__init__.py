"""Document collections: files become passages, which are searched by words and by meaning."""
