"""Training data: reads, audits and reviews labelled rows."""
