"""Quantization: formats, recipes, GPTQ, packing, sensitivity and bit allocation."""
