"""The web console: a separate process that shows the data of a node, received through a pipe, in the
browser."""
