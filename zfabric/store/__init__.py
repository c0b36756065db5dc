"""Storage: the data directory, the LMDB volume of each leader in it, and what the disk below is worth."""
