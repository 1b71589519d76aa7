"""The wire format, version 1: topics, codec, request options, commands. Pure: bytes become values."""
