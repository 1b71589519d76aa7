"""Teaching: encoders, decoders, readers and retrievers; how each is calibrated."""
