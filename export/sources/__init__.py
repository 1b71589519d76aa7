"""Where models and texts come from: hub, checkpoints, GGUF files, calibration texts."""
