"""One run and its records."""
