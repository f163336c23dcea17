"""Is a stored result still right: code, values, identities and the plan of a run."""
