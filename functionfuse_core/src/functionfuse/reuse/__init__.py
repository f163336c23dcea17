"""Decide whether stored results are still right: code, values, identities and the plan."""
