"""The console in the browser: a process of its own that shows a node, fed through a pipe."""
