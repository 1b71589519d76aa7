"""Training and confidence calibration of encoders, decoders, readers and retrievers."""
