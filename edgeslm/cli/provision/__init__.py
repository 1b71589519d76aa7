"""``edgeslm provision``: keys, access lists and settings of a broker and its clients."""
