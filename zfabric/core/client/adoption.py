"""Topics of others, made in the own fabric of a mesh when they are produced to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from zfabric import errors
from zfabric.core.client.pending import Pending
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import CreateTopic, TopicMeta

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.origins import Origins

ASK_NS: Final = 10_000_000_000


class Adoption:
    """Makes topics in the own fabric, and makes them again when that has lost them."""

    def __init__(self, client: Client, origins: Origins) -> None:
        self._client = client
        self._origins = origins
        self._adopting: set[str] = set()

    def adopt(self, topic: str, adopted: Pending[TopicMeta], deadline_ns: int) -> None:
        """The own fabric does not have a topic: make it there as others have it, so that it can be produced to."""
        client = self._client
        wanted = self._origins.want(topic, client.now, deadline_ns)

        def found() -> None:
            view = None if wanted.error is not None else wanted.result()
            own = client.topic(topic)
            if view is None or own is not None:
                self._relay(topic, wanted.error, adopted)
                return
            known = [origin.topics[topic] for origin in self._origins.known() if topic in origin.topics]
            count = max((len(meta.partitions) for meta in known), default=0) or 1
            body = CreateTopic(topic, count, view.config, if_absent=True)
            made = client.control(Type.CREATE_TOPIC, body, client.now, deadline_ns, f"adoption of topic {topic!r}")
            made.on_done(lambda: note(made))

        def note(made: Pending[Command]) -> None:
            if made.error is None:
                client.adopt(made.result().body.topic)
            self._relay(topic, made.error, adopted)

        wanted.on_done(found)

    def lose(self, topic: str) -> None:
        """The own fabric has a topic no more, which may be because it has another disk.

        What is on its way there goes to the one that is made as others have it, if somebody has.
        """
        client = self._client
        for producer in client.producers:
            if not producer.holds(topic):
                producer.gone(topic, client.now)
        if topic not in self._adopting and any(producer.knows(topic) for producer in client.producers):
            self._adopting.add(topic)
            adopted: Pending[TopicMeta] = Pending()
            adopted.on_done(lambda: self._kept_or_lost(topic, adopted.error))
            self.adopt(topic, adopted, client.now + ASK_NS)
        client.show(topic)

    def _kept_or_lost(self, topic: str, error: Exception | None) -> None:
        self._adopting.discard(topic)
        for producer in self._client.producers if error is not None else ():
            producer.gone(topic, self._client.now)

    def _relay(self, topic: str, error: Exception | None, adopted: Pending[TopicMeta]) -> None:
        own = self._client.topic(topic)
        if own is not None:
            adopted.resolve(own)
        else:
            adopted.fail(error or errors.UnknownTopic(topic=topic))
