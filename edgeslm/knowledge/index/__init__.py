"""Collection index: passages, words (BM25) and vectors in one SQLite file, with search and reranking."""
