"""What is exported: decoders, encoders, adapters, and the plan of an export."""
