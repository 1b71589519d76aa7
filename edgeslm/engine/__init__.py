"""Inference engines: the only package that imports onnxruntime or onnxruntime_genai.

Importing ``edgeslm.engine`` itself imports neither library. The parent process uses ``calls``, ``frames`` and
``host``; ``worker`` runs in a separate process for each model, ``prepack`` in short-lived child processes
(jobs).
"""
