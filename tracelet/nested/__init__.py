"""Libraries in which a run has runs within it: the trials of a search, the steps of a workflow."""
