"""The daemon: pipeline, request handler, requests in flight, control API, peers."""
