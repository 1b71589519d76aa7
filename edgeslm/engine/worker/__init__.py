"""The inference process: decoder, encoder, heads, KV-cache slots, prefix cache."""
