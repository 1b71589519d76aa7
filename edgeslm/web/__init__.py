"""HTTP servers of a node, each in a child process: what console and API share."""
