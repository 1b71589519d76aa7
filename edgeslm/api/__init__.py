"""HTTP API: the dialects of OpenAI and Ollama for a node's tasks and models, served by a process of its
own."""
