"""Quantization: formats, packing, GPTQ, sensitivity, bit allocation."""
