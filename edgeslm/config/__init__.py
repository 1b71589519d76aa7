"""Configuration: YAML -> a frozen ``Config``. See ``loader``, ``schema`` and ``validation``."""
