"""Redaction: finds personal and secret data in texts and payloads, and replaces it."""
