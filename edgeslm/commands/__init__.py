"""Commands of ``edgeslm`` that are a module each: what they are called with, and what they do."""
