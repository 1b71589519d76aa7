"""What can be seen of a running node from outside."""
