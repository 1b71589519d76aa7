"""``edgeslm init``: listens to a broker, shows what passes, and writes a first configuration."""
