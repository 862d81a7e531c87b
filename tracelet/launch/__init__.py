"""`tracelet run`: starts the user's command, unchanged, as a run."""
