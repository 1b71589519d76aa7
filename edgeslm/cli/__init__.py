"""The command line: ``main`` builds the parser; larger commands have their own modules."""
