"""Models of a running node become others: brought in, tested, switched to, watched, taken back by itself."""
