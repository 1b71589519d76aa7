"""Table question answering: converts a question to a query over the rows of a table."""
