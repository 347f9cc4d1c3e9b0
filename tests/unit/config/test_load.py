"""A configuration loads whole, or says everything that is wrong with it at once, each with place and mend."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.config import Config, load_config, warnings
from relaypacs.errors import ConfigError

GOOD = """\
[node]
name = "node-1"
[receive]
port = 104
ae_titles = ["RELAY", "RELAY2"]
[[caller]]
ae_title = "CT_*"
networks = ["10.0.0.0/8"]
[[destination]]
name = "pacs"
kind = "dimse"
host = "pacs.example"
called_ae = "PACS"
[[destination]]
name = "web"
kind = "dicomweb"
url = "https://web.example/rs"
credentials_env = "WEB"
[[rule]]
name = "all"
to = ["pacs"]
[rule.tags]
StationName = "ROOM*"
[routing]
default = ["web"]
"""
WEB = {"WEB_TOKEN": "t"}


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "relaypacs.toml"

    def load(text, environ=WEB):
        path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
        return load_config(path, environ)

    return load


@pytest.fixture
def problems(load, tmp_path):
    def problems(text, environ=WEB):
        with pytest.raises(ConfigError) as caught:
            load(text, environ)
        return [problem.replace(f"{tmp_path}/relaypacs.toml", "file") for problem in caught.value.problems]

    return problems


def test_a_good_file(load):
    config = load(GOOD)
    assert config.node.name == "node-1"
    assert config.receive.port == 104
    assert config.receive.ae_titles == ("RELAY", "RELAY2")
    assert [one.name for one in config.destination] == ["pacs", "web"]
    assert config.rule[0].tags == {"StationName": "ROOM*"}
    assert config.spool_dir == Path("/var/lib/relaypacs/spool")


def test_nothing_at_all_is_the_defaults(load):
    assert load_config(None, {}) == Config()
    assert load("") == Config()
    assert load(b"\xef\xbb\xbf[receive]\r\nport = 104\r\n").receive.port == 104


def test_the_file_that_is_not_there(tmp_path):
    for path, why in ((tmp_path / "absent.toml", "No such file"), (tmp_path, r"holds no \*\.toml file")):
        with pytest.raises(ConfigError, match=why):
            load_config(path, {})


def test_what_is_no_toml(problems):
    assert problems("[receive]\nport = \n")[0].startswith("file:2:8: isn't TOML: ")
    assert problems("[receive]\nport = 1\nport = 2\n")[0].startswith("file:3:")
    assert problems(b"[receive]\n# \xff\n") == ["file:2: isn't UTF-8; save the file as UTF-8"]
    assert "isn't TOML" in problems("x = [\n")[0]
    assert "nested too deep" in problems("x = " + "[" * 100_000)[0]


@pytest.mark.parametrize(
    ("slip", "mend"),
    [
        ('name = "archive', "with the quotation mark it began with"),
        ("host = 127.0.0.1", "text stands in quotation marks"),
        ("host = pacs.local", "straight quotation marks"),
        ("name = “archive”", "straight quotation marks"),
        ("port = 104,", "one `name = value` to a line"),
        ('kind: "dimse"', "write name = value"),
        (r'state_dir = "C:\pacs"', "write \\\\ for each"),
        ("[[caller]", "write [[name]]"),
        ("[receive", "write [name]"),
        ("ae_titles = [1", "ends with ]"),
        ("port = 1\nport = 2", "that is set twice"),
    ],
)
def test_what_to_do_about_what_is_no_toml(problems, slip, mend):
    (said,) = problems(f"{slip}\n")
    assert "isn't TOML: " in said
    assert mend in said


# Each line of the file that is wrong, and what has to be said of it: place, option, mend.
WRONG = [
    ("prot = 1", r"prot: no such section; there are node, "),
    ("[recieve]", r"recieve: no such section; did you mean receive\?"),
    ("[receive]", ""),
    ("prot = 1", r"\[receive\] prot: no such option; did you mean port\?"),
    (
        "port = 70000",
        r"\[receive\] port: 70000 is not possible: must be less than or equal to 65535 \(default: 11112\)",
    ),
    ('ae_titles = ["OK", "TOO LONG AN AE TITLE"]', r"\[receive\] ae_titles\[2\]: an AE title has 1 to 16"),
    ('ack = "now"', r"\[receive\] ack: 'now' is not possible: must be 'spooled' or 'buffered' \(default: spooled\)"),
    ('transfer_syntaxes = "1.2"', r"\[receive\] transfer_syntaxes: '1.2' is not possible: write a list"),
    ('private_sop_classes = ["1.02"]', r"private_sop_classes\[1\]: a UID is at most 64 characters"),
    ("check_called_ae = 7", r"check_called_ae: 7 is not possible: write true or false \(default: true\)"),
    ("idle_timeout_seconds = 0", r"idle_timeout_seconds: 0 is not possible: must be greater than 0"),
    ("[[caller]]", r"caller\[1\]: ae_title is missing: Calling AE title"),
    ("[[caller]]", ""),
    ('ae_title = "CT"', ""),
    ('networks = ["10.0.0.0/99"]', r'caller\[2\] "CT" networks\[1\]: write a CIDR network'),
    ("[[caller]]", ""),
    ('ae_title = "A\\\\B"', r"caller\[3\] .*ae_title: write an AE title"),
    ("[jobs]", ""),
    ('url = "mysql://u:hunter2@h/x"', r"\[jobs\] url: write postgresql://"),
    ("[[destination]]", r'destination\[1\] "pacs": a dimse destination needs `host`'),
    ("# the same place", r'destination\[1\] "pacs": a dimse destination needs `called_ae`'),
    ('name = "pacs"', ""),
    ('kind = "dimse"', ""),
    ('port = "no"', r'destination\[1\] "pacs" port: \'no\' is not possible: write a whole number'),
    ("[[destination]]", r'destination\[2\] "Web": keep user and password out of `url`'),
    ('name = "Web"', r'destination\[2\] "Web" name: write 1 to 63 lower-case letters'),
    ('kind = "dicomweb"', ""),
    ('url = "http://u:hunter2@h/x"', ""),
    ('retry = "5m"', r"'5m' is no retry step; write COUNTxINTERVAL"),
    ("[[destination]]", ""),
    ('name = "pacs"', r'destination\[3\] "pacs" name: is used before'),
    ('kind = "dimsee"', r"kind: 'dimsee' is not possible: must be 'dimse' or 'dicomweb'"),
    ("[[destination]]", ""),
    ('name = "open"', ""),
    ('kind = "dicomweb"', ""),
    ('url = "https://h/x"', ""),
    ('credentials_env = "OPEN"', r'destination\[4\] "open" credentials_env: OPEN_PASSWORD is not set; set it, or'),
    ("[[rule]]", r'rule\[1\] "r": give `to` or `drop = true`'),
    ('name = "r"', ""),
    ('modality = "re:("', r'rule\[1\] "r" modality: \'re:\(\' is no regular expression'),
    ('to = ["pac"]', r"to: no \[\[destination\]\] is named 'pac'; did you mean pacs\?"),
    ("drop = true", ""),
    ("[rule.tags]", ""),
    ('StatonName = "x"', r"'StatonName' is no DICOM keyword or tag; did you mean StationName\?"),
    ("[staging]", ""),
    ('dir = "relative"', r"\[staging\] dir: write an absolute path"),
    ('keep = "7"', r"\[staging\] keep: write none, forever"),
    ("[routing]", ""),
    ('default = ["nowhere-near"]', r"default: no \[\[destination\]\] is named 'nowhere-near'; there are pacs, Web"),
    ("[sidecar]", ""),
    ("port = []", r"\[sidecar\] port: write a whole number \(default: 8080\)"),
]


def test_every_problem_at_once_each_with_its_line_and_mend(problems):
    found = problems("\n".join(line for line, _ in WRONG), {"OPEN_USERNAME": "hunter2"})
    expected = [(number, says) for number, (_, says) in enumerate(WRONG, 1) if says]
    for number, says in expected:
        line = number - 1 if WRONG[number - 1][0].startswith("#") else number
        assert any(re.match(rf"file:{line}: .*{says}", problem) for problem in found), (line, says, found)
    assert len(found) == len(expected), found
    assert [int(problem.split(":")[1]) for problem in found] == sorted(int(problem.split(":")[1]) for problem in found)
    assert "hunter2" not in "\n".join(found)


def test_tables_of_the_wrong_kind(problems):
    assert problems('[caller]\nae_title = "X"\n') == [
        "file:1: caller: write [[caller]] with two brackets: there can be several"
    ]
    assert problems("[[receive]]\nport = 1\n") == [
        "file:1: receive: this is a table of options; write [receive] and its options below"
    ]
    assert problems("receive = 5\ndestination = [5]\n") == [
        "file:1: receive: this is a table of options; write [receive] and its options below",
        "file:2: destination[1]: this is a table of options; write [[destination]] and its options below",
    ]


def change(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "[sidecar]\nport = 104\n", r"file:27: \[sidecar\] port: 104 is also \[receive\] port"),
        (
            GOOD + '[spool]\ndir = "/x"\n[staging]\ndir = "/x/y"\n',
            r"file:29: \[staging\] dir: spool and staging lie in one",
        ),
        (
            change('[[rule]]\nname = "all"', '[[rule]]\nname = "all"\ndrop = true\n[[rule]]\nname = "all"'),
            "is used before",
        ),
        (change("[[caller]]", '[[caller]]\nae_title = "CT_*"\nnetworks = ["10.0.0.0/8"]\n[[caller]]'), "stands before"),
        (change('kind = "dimse"', 'kind = "dimse"\nurl = "http://x"'), "are for dicomweb"),
        (change('kind = "dicomweb"', 'kind = "dicomweb"\nhost = "x"'), "are for dimse"),
        (change("https://web.example/rs", "ftp://web.example/rs"), "needs `url`, such as"),
        (change("https://web.example/rs", "https://web.example:99999/rs"), "needs `url`, such as"),
        (change("https://web.example/rs", "https://web.example/rs?x=1"), "is the base of the service"),
        (change('called_ae = "PACS"', 'called_ae = "PACS"\nport = 0'), "needs `port`"),
        (GOOD + '[sidecar]\nhost = "pacs..example"\n', "host: write a host name"),
        (GOOD + '[sidecar]\nhost = "h\\u0000"\n', "host: write a host name"),
        (change('host = "pacs.example"', 'host = "pacs.example:104"'), "without the port"),
        (change("https://web.example/rs", "https://web.example/rs/studies"), "leave out `/studies`"),
        (GOOD + '[spool]\ndir = "/x\\u0000y"\n', "dir: write a path without control characters"),
        (
            change('called_ae = "PACS"', 'called_ae = "PACS"\ncalling_ae = "A\\\\B"'),
            "`calling_ae`: an AE title has no backslash",
        ),
        (change('credentials_env = "WEB"', 'credentials_env = "web"'), "such as ORTHANC"),
        (GOOD + '[jobs]\nurl = "sqlite://"\n', "needs an absolute file"),
        (GOOD + '[jobs]\nurl = "sqlite:///relative.db"\n', "needs an absolute file"),
    ],
)
def test_what_fits_alone_but_not_together(problems, text, says):
    found = problems(text)
    assert len(found) == 1, found
    assert re.search(says, found[0])


def test_the_same_caller_on_another_network_may_have_its_own_policy(load):
    config = load(change("[[caller]]", '[[caller]]\nae_title = "CT_*"\nnetworks = ["10.1.0.0/16"]\n[[caller]]'))
    assert len(config.caller) == 2


@pytest.mark.parametrize(
    ("url", "becomes"),
    [
        ("postgresql://u:p@h:5432/db", "postgresql+psycopg://u:p@h:5432/db"),
        ("postgres://u@/db?host=/run", "postgresql+psycopg://u@/db?host=/run"),
        ("postgresql+psycopg://h1,h2/db", "postgresql+psycopg://h1,h2/db"),
        ("sqlite:////var/x.sqlite", "sqlite:////var/x.sqlite"),
    ],
)
def test_the_job_tables_url(load, url, becomes):
    assert load(f'[jobs]\nurl = "{url}"\n').jobs_url == becomes
    assert load("", {"DATABASE_URL": url}).jobs_url == becomes


def test_a_secret_is_not_quoted_whatever_its_type(problems):
    assert problems("[jobs]\nurl = 271828\n") == ["file:2: [jobs] url: write text, in quotation marks"]


def test_warnings(load):
    assert warnings(load(GOOD), {}) == []
    assert warnings(Config(), {}) == [
        "no [[caller]]: nobody may send; add one per modality",
        "no [[destination]]: what is received stays here, unrouted",
    ]
    doubtful = load(
        """
        [receive]
        ack = "buffered"
        [[caller]]
        ae_title = "*"
        [[destination]]
        name = "self"
        kind = "dimse"
        host = "127.0.0.1"
        port = 11112
        called_ae = "RELAYPACS"
        [[destination]]
        name = "clear"
        kind = "dicomweb"
        url = "http://10.0.0.1/rs"
        credentials_env = "WEB"
        [[rule]]
        name = "none"
        drop = true
        """
    )
    said = "\n".join(warnings(doubtful, {"RELAYPACS_RECEIVE_PORT": "11113"}))
    for part in (
        "for benchmarks only", 'caller[1] "*": anyone who reaches port 11112',
        'destination[1] "self": no rule names it',
        'destination[1] "self": is this node itself', 'destination[2] "clear": its credentials travel unencrypted',
        'rule[1] "none": drops everything', "write RELAYPACS_RECEIVE__PORT",
    ):  # fmt: skip
        assert part in said


def test_loopback_and_networks_need_no_warning(load):
    loopback = '[receive]\nhost = "127.0.0.1"\n[[caller]]\nae_title = "*"\n'
    network = '[[caller]]\nae_title = "*"\nnetworks = ["10.0.0.0/8"]\n'
    for text in (loopback, network):
        assert "anyone" not in "\n".join(warnings(load(text), {}))


LINES = st.lists(
    st.sampled_from(
        [line for line, _ in WRONG] + GOOD.splitlines() + ["[receive.x]", "rule.x = 1", 'destination = "x"']
    )
    | st.text(max_size=20),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(LINES)
def test_whatever_is_in_the_file_it_loads_or_names_problems(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(lines), errors="replace")
    problems = None
    try:
        load_config(path, {})
    except ConfigError as error:
        problems = error.problems
    assert problems is None or (problems and all(isinstance(problem, str) and problem for problem in problems))
