"""Model export: decoders, encoders and adapters, and the plan of an export."""
