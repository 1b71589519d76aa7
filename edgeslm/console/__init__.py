"""The web console: a separate process that shows a node in the browser and receives the node's data through a
pipe."""
