"""Rows of examples: reading, reviewing and auditing them."""
