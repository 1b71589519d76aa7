"""The index of a collection: passages, words (BM25), vectors, search, reranking, in one SQLite file."""
