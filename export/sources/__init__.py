"""Sources of models and texts: hub, checkpoints, GGUF files, calibration texts."""
