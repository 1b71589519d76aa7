"""Evaluation: divergence from the float model, golden answers, report cards, comparison with llama.cpp."""
