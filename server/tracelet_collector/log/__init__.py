"""The durable log: its contract (`base`) and what keeps it (`sqlite`)."""
