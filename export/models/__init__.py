"""Model exports: decoders, encoders, adapters, and the plan of an export."""
