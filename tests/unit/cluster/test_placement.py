"""The controller: topics, ids and assignments."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.core.cluster.placement import Placement
from zfabric.model import TopicConfig
from zfabric.sim.disk import SimDisk
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import AlterTopic, Attach, CreateTopic, DeleteTopic, LeaderAddress, Metadata
from zfabric.wire.replication import Adopt, AdoptedTopic


class Controller:
    def __init__(self, disk=None, leaders=2, secret=b""):
        self.disk = disk or SimDisk()
        self.machine = Placement(secret=secret)
        self.machine.start("fabric", leaders, 1 << 24, self.disk.write())
        self.disk.commit()
        self.machine.take_effects()

    def ask(self, kind, body):
        command = Command(kind, 0, 4, body, ())
        if kind in self.machine.writes:
            self.machine.handle(b"peer", command, self.disk.write())
            self.disk.commit()
        else:
            self.machine.answer(b"peer", command)
        answers = [(effect.peer, messages.read(effect.frames)) for effect in self.machine.take_effects()]
        self.others = [(peer, answer) for peer, answer in answers if peer != b"peer"]
        answer = next(answer for peer, answer in answers if peer == b"peer")
        if answer.type == Type.ERROR:
            raise errors.from_wire(answer.body.code, answer.body.values)
        return answer.body

    def create(self, name, partitions=2, **options):
        config = options.pop("config", TopicConfig())
        return self.ask(Type.CREATE_TOPIC, CreateTopic(name, partitions, config, **options)).topic


def test_partitions_are_spread_over_the_leaders():
    topic = Controller().create("t", 4)
    assert sorted(place.leader for place in topic.partitions) == [0, 0, 1, 1]
    assert [place.number for place in topic.partitions] == [0, 1, 2, 3]


def test_ids_are_never_given_twice_not_even_after_a_restart():
    controller = Controller()
    first = controller.create("t")
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("t"))
    again = Controller(controller.disk).create("t")
    assert again.id > first.id
    assert {place.id for place in again.partitions}.isdisjoint(place.id for place in first.partitions)


def test_a_topic_that_exists_is_taken_or_refused():
    controller = Controller()
    made = controller.create("t")
    with pytest.raises(errors.AlreadyExists):
        controller.create("t")
    assert controller.create("t", 9, if_absent=True) == made


def test_partitions_grow_and_never_shrink():
    controller = Controller()
    made = controller.create("t", 2)
    grown = controller.ask(Type.ALTER_TOPIC, AlterTopic("t", TopicConfig(), 5)).topic
    assert grown.partitions[:2] == made.partitions
    with pytest.raises(errors.InvalidArgument):
        controller.ask(Type.ALTER_TOPIC, AlterTopic("t", TopicConfig(), 3))
    with pytest.raises(errors.InvalidArgument):
        controller.ask(Type.ALTER_TOPIC, AlterTopic("t", TopicConfig(durability="os")))


def test_an_attached_leader_is_told_what_changed():
    controller = Controller()
    controller.ask(Type.ATTACH, Attach(1, "tcp://*:2", "tcp://*:3", 0))
    controller.machine.answer(b"one", Command(Type.ATTACH, 0, 1, Attach(1, "tcp://*:2", "tcp://*:3", 0), ()))
    controller.machine.take_effects()
    made = controller.create("t")
    [(peer, told)] = controller.others
    assert (peer, told.type) == (b"one", Type.ASSIGN)
    assert told.body.topics[0].partitions == [place for place in made.partitions if place.leader == 1]
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("t"))
    assert controller.others[0][1].body.gone == [made.id]
    with pytest.raises(errors.InvalidArgument):
        controller.ask(Type.ATTACH, Attach(7, "", "", 0))


def test_whoever_does_not_know_the_secret_of_a_node_leads_nothing_of_it():
    controller = Controller(secret=b"of this node")
    controller.ask(Type.ATTACH, Attach(1, "tcp://*:2", "tcp://*:3", 0, secret=b"of this node"))
    for secret in (b"", b"of another"):
        with pytest.raises(errors.ProtocolViolation):
            controller.ask(Type.ATTACH, Attach(1, "tcp://evil:2", "tcp://evil:3", 0, secret=secret))
    assert [leader.endpoint for leader in controller.ask(Type.METADATA, Metadata()).leaders] == ["tcp://*:2"]


def test_metadata_names_leaders_topics_and_what_is_unknown():
    controller = Controller()
    controller.machine.listen(LeaderAddress(0, "ipc://r", "ipc://p"))
    controller.create("t")
    known = controller.ask(Type.METADATA, Metadata(["t", "u"]))
    assert ([topic.name for topic in known.topics], known.unknown, known.leaders[0].endpoint) == (
        ["t"],
        ["u"],
        "ipc://r",
    )
    assert [topic.name for topic in controller.ask(Type.METADATA, Metadata(None)).topics] == ["t"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0", "ä", "-x", ".x", "x" * 250])
def test_names_that_could_be_paths_or_look_alike_are_refused(name):
    with pytest.raises(errors.InvalidArgument):
        Controller().create(name)


@pytest.mark.parametrize(
    "config",
    [
        TopicConfig(retention_ms=-2),
        TopicConfig(retention_bytes=-2),
        TopicConfig(record_bytes_max=0),
        TopicConfig(record_bytes_max=1 << 25),
        TopicConfig(durability="memory", cleanup="compact"),
        TopicConfig(durability="os", commit_interval_ms=5),
    ],
)
def test_configurations_out_of_range_are_refused(config):
    with pytest.raises(errors.InvalidArgument):
        Controller().create("t", config=config)


def test_unknown_topics_cannot_be_changed():
    with pytest.raises(errors.UnknownTopic):
        Controller().ask(Type.DELETE_TOPIC, DeleteTopic("t"))
    with pytest.raises(errors.UnknownTopic):
        Controller().ask(Type.ALTER_TOPIC, AlterTopic("t", TopicConfig()))


def test_the_bound_of_partitions_is_on_those_that_exist(monkeypatch):
    """Topics that come and go never use it up."""
    monkeypatch.setattr("zfabric.core.cluster.placement.PARTITIONS_MAX", 8)
    controller = Controller()
    for _ in range(10):
        controller.create("t", 8)
        with pytest.raises(errors.LimitExceeded):
            controller.create("another", 1)
        controller.ask(Type.DELETE_TOPIC, DeleteTopic("t"))


def attach(controller, leader, version):
    body = Attach(leader, f"tcp://*:{leader}", "tcp://*:9", version)
    controller.machine.answer(b"leader-%d" % leader, Command(Type.ATTACH, 0, 1, body, ()))
    [effect] = controller.machine.take_effects()
    return messages.read(effect.frames).body


def test_an_assignment_says_after_which_version_it_begins():
    controller = Controller()
    attach(controller, 1, 0)
    for name in ("t", "u"):
        controller.create(name)
    told = attach(controller, 1, 1)
    assert (told.since, told.version, [topic.name for topic in told.topics]) == (1, 2, ["u"])


def test_a_deletion_is_remembered_until_every_leader_has_heard_of_it():
    """Else a fabric that makes and deletes topics for years keeps a row for each, and looks at all of them."""
    controller = Controller(leaders=3)
    gone = [controller.create(name).id for name in ("t", "u")]
    for name in ("t", "u"):
        controller.ask(Type.DELETE_TOPIC, DeleteTopic(name))
    attach(controller, 1, 4)
    controller.create("v")
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("v"))
    assert attach(controller, 2, 0).gone[:2] == gone
    attach(controller, 2, 3)
    last = controller.create("w").id
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("w"))
    again = Controller(controller.disk, leaders=3)
    assert attach(again, 2, 3).gone == [gone[1], last - 1, last]
    assert attach(again, 1, 0).gone == [gone[1], last - 1, last]


def test_a_lone_leader_needs_no_memory_of_deletions():
    controller = Controller(leaders=1)
    for _ in range(5):
        controller.create("t")
        controller.ask(Type.DELETE_TOPIC, DeleteTopic("t"))
    assert len([key for key, _ in controller.disk.items() if key.startswith(b"CX")]) == 1


def test_a_repeated_command_is_answered_again_also_after_a_restart():
    """Its answer was lost: to be told that one's topic exists already, or is gone already, would be wrong."""
    controller = Controller()
    made = controller.create("t", token=5)
    assert controller.create("t", token=5) == made
    controller = Controller(controller.disk)
    assert controller.create("t", token=5) == made
    for token in (0, 6):
        with pytest.raises(errors.AlreadyExists):
            controller.create("t", token=token)
    for _ in range(2):
        assert controller.ask(Type.DELETE_TOPIC, DeleteTopic("t", 7)).topic.name == "t"
    controller = Controller(controller.disk)
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("t", 7))
    with pytest.raises(errors.UnknownTopic):
        controller.ask(Type.DELETE_TOPIC, DeleteTopic("t", 8))
    again = controller.create("t", token=9)
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("t", 7))
    assert controller.create("t", if_absent=True) == again, "a late repeat must not delete what was made since"
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("t"))
    controller.create("t", token=9)
    assert controller.ask(Type.METADATA, Metadata(None)).topics == [], "nor make what was deleted since"


def adopt(controller, config=None, name="t", source=5):
    body = Adopt("o", [AdoptedTopic(name, config or TopicConfig(), [(0, source)])])
    controller.machine.handle(b"peer", Command(Type.ADOPT, 0, 0, body, ()), controller.disk.write())
    controller.disk.commit()
    controller.machine.take_effects()
    [meta] = controller.ask(Type.METADATA, Metadata([name])).topics
    return [place.source for place in meta.kept]


@pytest.mark.parametrize("durability", ["os", "memory"])
def test_a_topic_that_is_not_on_disk_here_takes_no_copies(durability):
    """A copy is what acks="all" of its origin counts on."""
    controller = Controller(leaders=1)
    controller.create("t", config=TopicConfig(durability=durability))
    assert adopt(controller) == []
    assert controller.machine.refused == 1
    controller.create("u")
    assert adopt(controller, name="u") == [5]


@pytest.mark.parametrize("durability", ["os", "memory"])
def test_a_topic_with_copies_is_made_on_disk_or_not_at_all(durability):
    controller = Controller(leaders=1)
    adopt(controller)
    with pytest.raises(errors.InvalidArgument) as refused:
        controller.create("t", config=TopicConfig(durability=durability))
    assert refused.value.name == "durability"
    assert [place.source for place in controller.create("t").kept] == [5]


def test_a_partition_that_is_another_log_now_leaves_the_copy_of_the_first_one_alone():
    """An origin that was rolled back gives ids anew, and anybody may claim to be one: nothing is lost by that."""
    controller = Controller(leaders=1)
    assert adopt(controller) == [5]
    assert adopt(controller, source=6) == [5, 6]
    assert adopt(controller, source=5) == [5, 6]


def test_copies_have_the_settings_of_their_origins_whatever_the_topic_gets_here():
    hour, day = TopicConfig(retention_ms=3_600_000), TopicConfig(retention_ms=86_400_000)
    controller = Controller(leaders=1)

    def settings():
        [meta] = Controller(controller.disk).ask(Type.METADATA, Metadata(["t"])).topics
        return [place.config or meta.config for place in meta.kept]

    adopt(controller, hour)
    adopt(controller, day, source=6)
    assert settings() == [hour, day]
    controller.create("t", config=day)
    assert settings() == [hour, day]
    controller.ask(Type.ALTER_TOPIC, AlterTopic("t", TopicConfig()))
    assert settings() == [hour, day]
    adopt(controller, day)
    assert settings() == [day, day]
    version = controller.machine.version
    adopt(controller, day)
    assert controller.machine.version == version, "what is known costs no write"


def test_deleting_the_own_part_of_a_topic_leaves_its_copies_and_deleting_again_takes_them():
    controller = Controller()
    controller.create("t", 2)
    adopt(controller)
    version = controller.machine.version
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("t"))
    [meta] = controller.ask(Type.METADATA, Metadata(["t"])).topics
    assert (meta.partitions, [place.source for place in meta.kept]) == ([], [5])
    assert [topic.partitions for topic in controller.machine.assignment(0, version).topics] == [[]]
    assert [topic.partitions for topic in controller.machine.assignment(1, version).topics] == [[]]
    controller.ask(Type.DELETE_TOPIC, DeleteTopic("t"))
    assert controller.ask(Type.METADATA, Metadata(["t"])).unknown == ["t"]
