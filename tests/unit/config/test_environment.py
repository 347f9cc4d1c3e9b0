"""Variables win over the file, are checked like it, and are named when they are wrong."""

import pytest

from relaypacs.config import load_config
from relaypacs.errors import ConfigError


def load(text="", /, path=None, **environ):
    if path:
        path.write_text(text)
    return load_config(path, environ)


def problems(**environ):
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ)
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "text", "section", "option", "value"),
    [
        ("RELAYPACS_RECEIVE__PORT", "11113", "receive", "port", 11113),
        ("RELAYPACS_RECEIVE__PORT", "1_024", "receive", "port", 1024),
        ("RELAYPACS_RECEIVE__AE_TITLES", "A,B C", "receive", "ae_titles", ("A", "B C")),
        ("RELAYPACS_RECEIVE__AE_TITLES", '["A", "B"]', "receive", "ae_titles", ("A", "B")),
        ("RELAYPACS_RECEIVE__AE_TITLES", "104", "receive", "ae_titles", ("104",)),
        ("RELAYPACS_RECEIVE__CHECK_CALLED_AE", "false", "receive", "check_called_ae", False),
        ("RELAYPACS_RECEIVE__CHECK_CALLED_AE", "No", "receive", "check_called_ae", False),
        ("RELAYPACS_RECEIVE__IDLE_TIMEOUT_SECONDS", "7", "receive", "idle_timeout_seconds", 7.0),
        ("RELAYPACS_NODE__NAME", "123", "node", "name", "123"),
        ("RELAYPACS_NODE__NAME", "true", "node", "name", "true"),
        ("RELAYPACS_LOG__LEVEL", "WARNING", "log", "level", "warning"),
        ("LOG_LEVEL", "DEBUG", "log", "level", "debug"),
        ("LOG_LEVEL", "warn", "log", "level", "warning"),
        ("DEBUG", "true", "log", "level", "debug"),
        ("DEBUG", "0", "log", "level", "info"),
        ("RELAYPACS_ROUTING__DEFAULT", "[]", "routing", "default", ()),
    ],
)
def test_an_option_by_its_variable(name, text, section, option, value):
    assert getattr(getattr(load(**{name: text}), section), option) == value
    assert getattr(getattr(load(**{name: f" {text}\n"}), section), option) == value


def test_the_environment_is_stronger_than_the_file(tmp_path):
    path = tmp_path / "relaypacs.toml"
    text = '[receive]\nport = 1\nprocesses = 3\n[log]\nlevel = "error"\n'
    config = load(text, path=path, RELAYPACS_RECEIVE__PORT="2", DEBUG="true")
    assert (config.receive.port, config.receive.processes, config.log.level) == (2, 3, "debug")
    assert load(text, path=path, DEBUG="false").log.level == "error"


def test_of_two_variables_the_more_precise_one_wins():
    config = load(
        DEBUG="true", LOG_LEVEL="error", DATABASE_URL="sqlite:////a", RELAYPACS_JOBS__URL="sqlite:////b"
    )  # fmt: skip
    assert (config.log.level, config.jobs_url) == ("error", "sqlite:////b")


def test_files_that_hold_the_value(tmp_path):
    (tmp_path / "url").write_text("postgresql://u:p@h/db\n")
    (tmp_path / "port").write_text("104\n")
    url = str(tmp_path / "url")
    assert load(DATABASE_URL_FILE=url).jobs_url == "postgresql+psycopg://u:p@h/db"
    assert load(RELAYPACS_JOBS__URL_FILE=url).jobs_url == "postgresql+psycopg://u:p@h/db"
    assert load(RELAYPACS_RECEIVE__PORT_FILE=str(tmp_path / "port")).receive.port == 104
    assert problems(DATABASE_URL="sqlite:////a", DATABASE_URL_FILE=url) == [
        "environment DATABASE_URL: both DATABASE_URL and DATABASE_URL_FILE are set; keep one"
    ]
    assert (
        "DATABASE_URL_FILE names '/absent', which can't be read: No such file"
        in problems(DATABASE_URL_FILE="/absent")[0]
    )


def test_an_empty_variable_is_no_variable():
    assert load(RELAYPACS_RECEIVE__PORT="", DATABASE_URL=" ", RELAYPACS_DESTINATION="").receive.port == 11112


def test_a_list_of_tables_as_a_whole(tmp_path):
    tables = '[{name = "a", kind = "dimse", host = "h", called_ae = "A"}, {name = "b", kind = "dicomweb", url = "http://h/"}]'
    text = '[[destination]]\nname = "old"\nkind = "dimse"\nhost = "h"\ncalled_ae = "A"\n'
    config = load(
        text, path=tmp_path / "relaypacs.toml", RELAYPACS_DESTINATION=tables, RELAYPACS_CALLER="[{ae_title='X'}]"
    )
    assert [one.name for one in config.destination] == ["a", "b"]
    assert [one.ae_title for one in config.caller] == ["X"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "RELAYPACS_RECEIVE__PORT",
            "x",
            "environment RELAYPACS_RECEIVE__PORT: 'x' is not possible: write a whole number",
        ),
        ("RELAYPACS_RECEIVE__PORT", "1\nx = 2", "'1\\nx = 2' is not possible"),
        (
            "RELAYPACS_RECEIVE__PROT",
            "1",
            "RELAYPACS_RECEIVE__PROT: no such option; did you mean RELAYPACS_RECEIVE__PORT?",
        ),
        ("RELAYPACS_RECEIVE__PROT_FILE", "/x", "no such option; did you mean RELAYPACS_RECEIVE__P"),
        ("RELAYPACS_DESTINATION__HOST", "x", "a list can only be set as a whole: RELAYPACS_DESTINATION"),
        ("RELAYPACS_DESTINATION", "x", "environment RELAYPACS_DESTINATION: write a TOML array of inline tables"),
        ("RELAYPACS_DESTINATION", "5", "write [[destination]] with two brackets"),
        ("RELAYPACS_CALLER", "[{ae_titel='X'}]", "environment RELAYPACS_CALLER: caller[1] ae_titel: no such option"),
        ("DEBUG", "maybe", "environment DEBUG: write true or false"),
        ("LOG_LEVEL", "loud", "environment LOG_LEVEL: 'loud' is not possible: must be 'debug', "),
        ("DATABASE_URL", "oracle://u:hunter2@h", "environment DATABASE_URL: write postgresql://"),
        (
            "RELAYPACS_ROUTING__DEFAULT",
            "pacs",
            "environment RELAYPACS_ROUTING__DEFAULT: no [[destination]] is named 'pacs'",
        ),
    ],
)
def test_a_wrong_variable_is_named(name, text, says):
    assert says in "\n".join(problems(**{name: text}))
    assert "hunter2" not in "\n".join(problems(**{name: text}))


def test_what_kubernetes_sets_for_a_service_of_our_name_is_left_alone():
    config = load(
        RELAYPACS_SERVICE_HOST="10.0.0.1", RELAYPACS_PORT="tcp://10.0.0.1:104", RELAYPACS_PORT_104_TCP_ADDR="10.0.0.1"
    )  # fmt: skip
    assert config.receive.port == 11112
