"""What Prefect runs: the flow of a sync job, the hooks of its states, and what it obeys."""
