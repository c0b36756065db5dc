"""For users' own tests: a real fabric in a temporary directory, faults on demand, virtual time."""
