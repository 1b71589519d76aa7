"""Configuration: YAML becomes a frozen ``Config`` (``loader``, ``schema``, ``validation``)."""
