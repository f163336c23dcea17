"""A run computes nodes: the scheduler, the job of one node, stored results, events, the report."""
