"""The tables of a job: as the source has them, how they are published, and which of them rest."""
