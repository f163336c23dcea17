"""Nodes are computed: the scheduler, one node's job, its results in a storage, events, report."""
