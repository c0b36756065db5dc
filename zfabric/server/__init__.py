"""Leader processes and their supervisor."""
