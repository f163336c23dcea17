"""The graph: calls of decorated functions become nodes, and a workflow holds them."""
