"""Configuration: reads a YAML file into a frozen ``Config``. The main modules are ``loader``, ``schema`` and
``validation``."""
