"""Table question answering: a question becomes a query over the rows of a table."""
