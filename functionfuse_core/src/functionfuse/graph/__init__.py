"""The graph: each call of a decorated function is a node, and a workflow holds the nodes."""
