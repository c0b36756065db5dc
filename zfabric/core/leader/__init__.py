"""The leader as state machines: log, producers, groups, retention, compaction."""
