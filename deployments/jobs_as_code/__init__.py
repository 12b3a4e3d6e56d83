"""Jobs as code: a file of jobs, what it would change, and doing that."""
