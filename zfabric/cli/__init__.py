"""The `zfabric` command: a file for each group of commands."""
