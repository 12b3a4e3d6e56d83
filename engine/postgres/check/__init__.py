"""What is looked at before a job begins, and what cures what is missing."""
