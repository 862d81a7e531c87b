"""tracelet's collector: makes records durable, and delivers them to the trackers."""
