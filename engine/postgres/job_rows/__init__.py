"""The job's own rows at the target: what they hold, who holds the job, and what is asked of it."""
