"""A module with a secret, for the tests of records."""

TOKEN = "canary-of-a-module"


def refuse() -> None:
    raise ValueError(f"refused: {TOKEN}")
