"""Inference engines: the only package that imports onnxruntime or onnxruntime_genai.

``import edgeslm.engine`` alone imports neither onnxruntime nor onnxruntime_genai. The parent process uses
``calls``, ``frames`` and ``host``; ``worker`` runs in a separate process for each model, ``prepack`` in
short-lived child processes (jobs).
"""
