"""Code of many forms, which workers import."""
