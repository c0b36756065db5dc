"""Which configurations a topic may have."""

from __future__ import annotations

from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.settings import check_topic_option


def check_config(config: TopicConfig) -> None:
    """Check a topic's configuration.

    Raises:
        InvalidArgument: a value is outside its range, or two do not go together.
    """
    check_topic_option("retention", None if config.retention_ms == -1 else config.retention_ms / 1000)
    check_topic_option("retention_bytes", None if config.retention_bytes == -1 else config.retention_bytes)
    check_topic_option("tombstone_retention", config.tombstone_ms / 1000)
    check_topic_option("commit_interval", config.commit_interval_ms / 1000)
    check_topic_option("record_bytes_max", config.record_bytes_max)
    if config.durability == "memory" and config.cleanup != "delete":
        raise errors.InvalidArgument(
            name="cleanup",
            value=repr(config.cleanup),
            allowed="'delete' with durability='memory': a ring keeps the newest",
        )
    check_topic_option("replicas", config.replicas)
    if config.durability != "fsync" and config.replicas > 1:
        raise errors.InvalidArgument(
            name="replicas", value=str(config.replicas), allowed="1 unless durability='fsync': a copy is on disk"
        )
    if config.durability != "fsync" and config.commit_interval_ms:
        raise errors.InvalidArgument(
            name="commit_interval", value=f"{config.commit_interval_ms / 1e3:g}", allowed="0 unless durability='fsync'"
        )
