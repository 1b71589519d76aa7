"""The load balancer of a pool: a process that sends each request to the node that will finish it first."""
