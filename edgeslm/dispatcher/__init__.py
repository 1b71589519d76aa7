"""The load balancer of a pool, a process: each request goes to the node that is done with it first."""
