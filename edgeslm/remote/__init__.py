"""Language models on OpenAI-compatible servers: requests to them, and redaction of what is sent."""
