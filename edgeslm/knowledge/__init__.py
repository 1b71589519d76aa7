"""Documents of this box: files become passages that are found again by their words and their meaning."""
