"""The client as state machines: requests, metadata, producer, consumer."""
