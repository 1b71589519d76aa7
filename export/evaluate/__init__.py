"""Evaluation of bundles: fidelity to the float model, accuracy on labelled rows, speed, golden answers."""
