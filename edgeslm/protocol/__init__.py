"""Wire protocol, version 1: topics, codec, request options, commands. Pure functions, no I/O."""
