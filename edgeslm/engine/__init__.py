"""Inference engines: the only package that imports onnxruntime or onnxruntime_genai.

Importing the package itself imports neither. The parent process sees ``calls``, ``frames`` and ``host``;
``worker`` runs in a process for each model, ``prepack`` in jobs.
"""
