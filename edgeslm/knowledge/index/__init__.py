"""Index of a collection: passages, words (BM25), vectors, search and reranking, in one SQLite file."""
