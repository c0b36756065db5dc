"""The pytest plugin. Every pytest of a user loads it: nothing heavy is imported here."""
