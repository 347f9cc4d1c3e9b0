"""What a running node takes of a new configuration, and what waits for its next start."""

import pytest

from relaypacs.config import Caller, Config, Destination, Log, Node, Receive, Routing, Spool
from relaypacs.config.change import OPTIONS, taken
from relaypacs.config.problems import LISTS, SECTIONS
from relaypacs.errors import ConfigError

OLD = Config(receive=Receive(port=104), caller=(Caller(ae_title="CT"),))


def test_nothing_changed():
    assert taken(OLD, OLD) == (OLD, [])


def test_lists_and_some_options_are_taken_and_the_rest_waits():
    pacs = Destination(name="pacs", kind="dimse", host="h", called_ae="P")
    new = Config(
        receive=Receive(port=105, processes=4, max_associations=7, ae_titles=("A",)),
        log=Log(level="debug"),
        caller=(Caller(ae_title="MR"),),
        destination=(pacs,),
        routing=Routing(default=("pacs",)),
        spool=Spool(min_free_bytes=5),
    )
    config, waiting = taken(OLD, new)
    assert sorted(waiting) == ["[receive] port", "[receive] processes", "[spool] min_free_bytes"]
    assert config == new.model_copy(
        update={"receive": new.receive.model_copy(update={"port": 104, "processes": 2}), "spool": Spool()}
    )


def test_a_limit_that_was_none_waits():
    before = OLD.model_copy(update={"receive": Receive(port=104, max_connections=0)})
    config, waiting = taken(before, OLD)
    assert waiting == ["[receive] max_connections"]
    assert config.receive.max_connections == 0
    assert taken(OLD, before)[1] == ["[receive] max_connections"]


def test_the_first_caller_that_waits_for_staging_needs_a_restart():
    staged = OLD.model_copy(update={"caller": (Caller(ae_title="CT", ack="staged"),)})
    with pytest.raises(ConfigError, match="needs a restart"):
        taken(OLD, staged)
    another = staged.model_copy(update={"caller": (*staged.caller, Caller(ae_title="MR", ack="staged"))})
    assert taken(staged, another) == (another, [])
    assert taken(staged, OLD) == (OLD, [])


def test_every_option_of_the_table_is_one():
    for section, options in OPTIONS.items():
        assert options <= SECTIONS[section].model_fields.keys()
    assert LISTS.keys() == {"caller", "destination", "rule"}


def test_what_names_the_node_and_its_folders_never_changes_while_it_runs():
    new = OLD.model_copy(update={"node": Node(name="other", profile="staging")})
    config, waiting = taken(OLD, new)
    assert (config.node.name, config.node.profile, waiting) == ("relaypacs", "staging", ["[node] name"])
