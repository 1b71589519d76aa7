"""``edgeslm provision``: makes keys, certificates, access lists and settings for a broker and its clients."""
