"""Sources of models and texts: the model hub, checkpoints, GGUF files and calibration texts."""
