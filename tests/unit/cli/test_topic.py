"""How a topic is shown."""

from __future__ import annotations

import json

import pytest

from zfabric.cli import topic
from zfabric.model import TopicConfig, TopicInfo


@pytest.mark.parametrize("as_json", [False, True])
def test_origins_that_have_other_settings_are_named_with_them(capsys, as_json):
    info = TopicInfo("t", 1, TopicConfig(), [], others={"00c0ffee": TopicConfig(retention_ms=60_000)})
    topic._show(info, as_json=as_json)
    shown = capsys.readouterr().out
    if as_json:
        assert json.loads(shown)["others"]["00c0ffee"]["retention_ms"] == 60_000
    else:
        assert "t at origin 00c0ffee: durability fsync, retention 60 s" in shown
