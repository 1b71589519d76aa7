"""The only package that imports onnxruntime or onnxruntime_genai.

Importing the package itself imports neither: ``calls`` and ``process`` are what the parent process sees,
the rest runs in the worker.
"""
