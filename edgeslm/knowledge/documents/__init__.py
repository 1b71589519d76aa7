"""Documents as values: passages, sentences, tables, dates."""
