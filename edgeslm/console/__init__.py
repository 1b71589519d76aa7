"""The web console: a separate process that shows a node in the browser, fed through a pipe."""
