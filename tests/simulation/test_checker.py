"""A check that cannot fail is none: each anomaly, put by hand into a clean history, is found, and it alone."""

import copy
from random import Random

import pytest

from zfabric.sim.history import History, Poll, Seen, Send

COUNT = 20


def clean():
    """One producer, one consumer, two partitions, nothing wrong."""
    history = History()
    for partition in (0, 1):
        for offset in range(COUNT):
            value = b"%d-%d" % (partition, offset)
            history.sends.append(Send("producer", partition, value, "ok", offset))
            history.final.append(Seen(partition, offset, value))
        history.ends += [("observer", partition, 5), ("observer", partition, COUNT)]
        history.positions["consumer", partition] = COUNT
        history.commits += [("group", partition, 7, "committed"), ("group", partition, 7, "begun")]
    for first in range(0, COUNT, 5):
        history.polls.append(Poll("consumer", [s for s in history.final if first <= s.offset < first + 5]))
    return history


def send(history, partition, offset):
    return next(s for s in history.sends if (s.partition, s.offset) == (partition, offset))


def forget(history, partition, offset):
    """As if nobody had ever read it."""
    history.final = [s for s in history.final if (s.partition, s.offset) != (partition, offset)]
    for poll in history.polls:
        poll.records = [s for s in poll.records if (s.partition, s.offset) != (partition, offset)]


def two_values_at_one_offset(history):
    history.sends.append(Send("other", 0, b"another", "ok", 3))


def one_value_at_two_offsets(history):
    history.final.append(Seen(0, COUNT, b"0-3"))
    history.positions["consumer", 0] += 1


def a_read_of_a_failed_send(history):
    send(history, 0, 3).outcome = "fail"


def a_value_nobody_sent(history):
    history.final.append(Seen(0, COUNT, b"from nowhere"))
    history.positions["consumer", 0] += 1


def an_acknowledged_value_that_was_passed_over(history):
    forget(history, 0, 3)


def an_acknowledged_value_lost_at_the_end(history):
    for partition in (0, 1):
        forget(history, partition, COUNT - 1)


def a_poll_that_begins_too_late(history):
    poll = history.polls[1]
    poll.records = [s for s in poll.records if (s.partition, s.offset) != (0, 5)]


def a_poll_that_begins_again(history):
    history.polls[1].records.insert(0, Seen(0, 4, b"0-4"))


def a_hole_within_a_poll(history):
    poll = history.polls[1]
    poll.records = [s for s in poll.records if (s.partition, s.offset) != (0, 7)]


def a_poll_in_disorder(history):
    records = history.polls[1].records
    records[1], records[2] = records[2], records[1]


def sends_in_another_order(history):
    sends = history.sends
    sends[3], sends[4] = sends[4], sends[3]


def a_read_that_vanished(history):
    history.final = [s for s in history.final if (s.partition, s.offset) != (0, COUNT - 1)]
    send(history, 0, COUNT - 1).outcome = "info"


def an_end_that_went_back(history):
    history.ends.append(("observer", 1, COUNT - 1))


def a_hole_in_the_log(history):
    moved = [Seen(s.partition, s.offset + (s.partition == 0 and s.offset > 9), s.value) for s in history.final]
    history.final = moved
    history.polls.clear()
    for entry in history.sends:
        entry.offset = -1
    history.positions["consumer", 0] += 1


def a_commit_that_was_lost(history):
    history.commits.append(("group", 1, 6, "begun"))


def a_consumer_that_stopped(history):
    history.positions["consumer", 1] = COUNT - 1


PLANTED = {
    two_values_at_one_offset: ("inconsistent-offsets", {"unseen", "lost-write"}),
    one_value_at_two_offsets: ("duplicate", set()),
    a_read_of_a_failed_send: ("aborted-read", set()),
    a_value_nobody_sent: ("phantom", set()),
    an_acknowledged_value_that_was_passed_over: ("lost-write", {"unseen", "poll-skip", "int-poll-skip", "offset-gap"}),
    an_acknowledged_value_lost_at_the_end: ("unseen", set()),
    a_poll_that_begins_too_late: ("poll-skip", set()),
    a_poll_that_begins_again: ("nonmonotonic-poll", set()),
    a_hole_within_a_poll: ("int-poll-skip", set()),
    a_poll_in_disorder: ("int-nonmonotonic-poll", {"poll-skip", "int-poll-skip"}),
    sends_in_another_order: ("nonmonotonic-send", set()),
    a_read_that_vanished: ("vanished-read", set()),
    an_end_that_went_back: ("end-regress", set()),
    a_hole_in_the_log: ("offset-gap", set()),
    a_commit_that_was_lost: ("lost-commit", set()),
    a_consumer_that_stopped: ("deaf", set()),
}
"""How an anomaly is planted, its name, and what may be found besides."""


def test_a_clean_history_has_no_anomaly():
    assert clean().anomalies() == []


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_an_anomaly_is_found(plant):
    history = clean()
    plant(history)
    found = {anomaly.kind for anomaly in history.anomalies()}
    name, besides = PLANTED[plant]
    assert name in found
    assert found <= {name} | besides


def test_every_anomaly_of_the_table_is_planted():
    from zfabric.sim import history as module

    rows = module.__doc__.split("=\n")[1].splitlines()
    named = {row.split()[0] for row in rows if row and not row.startswith(("=", " "))}
    assert named == {name for name, _ in PLANTED.values()}


def test_what_a_topic_may_lose_is_not_held_against_it():
    history = clean()
    an_acknowledged_value_lost_at_the_end(history)
    history.loses = True
    history.positions = {key: 0 for key in history.positions if key == "nobody"}
    assert history.anomalies() == []


def test_a_value_is_looked_for_in_its_own_partition():
    history = clean()
    history.final[0] = Seen(1, COUNT, history.final[0].value)
    assert {"phantom", "unseen"} <= {anomaly.kind for anomaly in history.anomalies()}


def test_shuffled_partitions_change_nothing():
    """Order counts within a partition alone."""
    history = clean()
    random = Random(1)
    shuffled = copy.deepcopy(history)
    for poll in shuffled.polls:
        parts = [[s for s in poll.records if s.partition == number] for number in (0, 1)]
        random.shuffle(parts)
        poll.records = parts[0] + parts[1]
    assert shuffled.anomalies() == []
