"""Production refuses what is not fit for patients' data, each with its place and mend; the example files are valid."""

from pathlib import Path

import pytest

from relaypacs.config import load_config, warnings
from relaypacs.config.profiles import weakness
from relaypacs.errors import ConfigError

CONF = Path(__file__).parents[3] / "conf"
GOOD = "kJ8sP2wQ9xZ4vB7n"
SECRETS = {
    "DATABASE_URL": f"postgresql://relaypacs:{GOOD}@postgres.example/relaypacs?sslmode=verify-full",
    "REDIS_URL": f"rediss://:{GOOD}@redis.example:6379/0",
    "MINIO_ACCESS_KEY": "AKIA0001",
    "MINIO_SECRET_KEY": GOOD,
    "ARCHIVE_USERNAME": "relaypacs",
    "ARCHIVE_PASSWORD": GOOD,
}
STRICT = """
[node]
profile = "production"
[receive]
plain = false
[tls]
listen = ["0.0.0.0:2762"]
certificate = "/c.pem"
"""


@pytest.mark.parametrize("name", ["development", "staging", "production", "dr"])
def test_the_example_of_each_profile_is_valid_and_says_which_it_is(name):
    config = load_config(CONF / f"relaypacs.{name}.toml", SECRETS)
    assert config.node.profile == name
    warned = warnings(config, SECRETS)
    told = [one for one in warned if "anyone who reaches" not in one and "is not there" not in one]
    expected = ["limits over"] if not config.redis.configured else []
    if name == "staging":
        expected = ["production would refuse this: [receive] plain: listens without TLS"]
    assert all(any(one.startswith(start) for start in expected) for one in told), told


def test_there_is_a_file_of_each_profile_and_no_other():
    assert sorted(one.name for one in CONF.glob("relaypacs.*.toml")) == [
        f"relaypacs.{name}.toml" for name in ("development", "dr", "production", "staging")
    ]


def test_the_defaults_are_a_simple_node_and_refuse_nothing(tmp_path):
    assert load_config(None, {}).node.profile == "development"


@pytest.fixture
def refused(tmp_path):
    def refused(text, environ=None, profile="production"):
        path = tmp_path / "relaypacs.toml"
        path.write_text(STRICT.replace("production", profile) + text)
        try:
            load_config(path, environ or {})
        except ConfigError as error:
            return [one.replace(f"{path}:", "") for one in error.problems]
        return []

    return refused


PACS = '[[destination]]\nname = "pacs"\nkind = "dimse"\nhost = "pacs.example"\ncalled_ae = "P"\n'
WEB = '[[destination]]\nname = "web"\nkind = "dicomweb"\nurl = "https://web.example/rs"\n'
S3 = '[staging]\nkind = "s3"\nbucket = "bucket"\n'


def test_what_is_strict_is_not_refused(refused):
    assert refused("") == []
    assert refused(PACS + "tls = true\n" + WEB + S3, SECRETS) == []


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("[log]\nlevel = 'debug'\n", {}, "[log] level: production refuses this: debug is not for"),
        ("", {"DEBUG": "true"}, "environment DEBUG: production refuses this: debug"),
        ("", {"RELAYPACS_RECEIVE__PLAIN": "true"}, "production refuses this: listens without TLS: give"),
        ("", {"RELAYPACS_RECEIVE__ACK": "buffered"}, "buffered loses acknowledged objects: write spooled"),
        (PACS, {}, 'destination[1] "pacs" tls: production refuses this: is sent to without TLS'),
        (WEB.replace("https", "http"), {}, 'destination[1] "web" url: production refuses this: is not encrypted'),
        (WEB + 'credentials_env = "W"', {"W_USERNAME": "u", "W_PASSWORD": "changeme"}, "W_PASSWORD is a default"),
        (WEB + 'credentials_env = "W"', {"W_TOKEN": "short"}, "W_TOKEN is shorter than 12 characters"),
        (S3 + 'encryption = "none"\n', {}, "[staging] encryption: production refuses this: none leaves"),
        (S3 + 'endpoint = "http://minio.example:9000"\n', {}, "[staging] endpoint: production refuses this: is not"),
        (S3, {"MINIO_ACCESS_KEY": "minioadmin", "MINIO_SECRET_KEY": "minioadmin"}, "MINIO_SECRET_KEY is a default"),
        ("", {"REDIS_URL": f"redis://:{GOOD}@r.example"}, "REDIS_URL: production refuses this: is not encr"),
        ("", {"REDIS_URL": "rediss://r.example"}, "has no password"),
        ("", {"REDIS_URL": "rediss://:redis@r.example"}, "its password is a default"),
        ("", {"DATABASE_URL": f"postgresql://u:{GOOD}@db.example/x"}, "the connection may be unencrypted: add ?"),
        ("", {"DATABASE_URL": "postgresql://u:postgres@localhost/x"}, "its password is a default or usual password"),
        ("", {"RELAYPACS_HASH_KEY": "secret"}, "RELAYPACS_HASH_KEY is a default"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("profile", ["production", "dr"])
def test_each_refusal_is_one_sentence_with_its_mend(refused, text, environ, said, profile):
    (one,) = refused(text, environ, profile)
    assert said.replace("production refuses", f"{profile} refuses") in one
    assert "changeme" not in one
    assert GOOD not in one
    assert refused(text, environ, "development") == []
    assert refused(text, environ, "staging") == []


@pytest.mark.parametrize(
    ("text", "environ", "name"),
    [
        (PACS, {}, "pacs"),
        (WEB.replace("https", "http"), {}, "web"),
        ("[sidecar]\nhost = '0.0.0.0'\n", {}, "sidecar"),
        ("", {"RELAYPACS_RECEIVE__PLAIN": "true"}, "receive"),
        (S3 + 'endpoint = "http://minio.example:9000"\n', {}, "staging"),
        ("", {"REDIS_URL": f"redis://:{GOOD}@r.example"}, "redis"),
        ("", {"DATABASE_URL": f"postgresql://u:{GOOD}@db.example/x"}, "jobs"),
    ],
)
def test_a_named_exception_is_let_be(refused, text, environ, name):
    assert len(refused(text, environ)) == 1
    assert refused(text, {**environ, "RELAYPACS_NODE__ALLOW_PLAINTEXT": name}) == []


def test_an_exception_for_nothing_is_a_mistake(refused):
    (one,) = refused("", {"RELAYPACS_NODE__ALLOW_PLAINTEXT": "receive,pcas"}, "development")
    assert "ALLOW_PLAINTEXT: 'pcas' is nothing; there are jobs, receive, redis, sidecar, staging" in one


def test_what_this_machine_says_to_itself_needs_no_encryption(refused):
    here = PACS.replace("pacs.example", "127.0.0.1") + WEB.replace("https://web.example", "http://[::1]:8042")
    urls = {"REDIS_URL": f"redis://:{GOOD}@127.0.0.1", "DATABASE_URL": "postgresql:///relaypacs?host=/run/postgresql"}
    assert refused(here, {**urls, "RELAYPACS_RECEIVE__PLAIN": "true", "RELAYPACS_RECEIVE__HOST": "127.0.0.1"}) == []


def test_all_is_told_at_once(refused):
    assert len(refused(PACS + WEB.replace("https", "http") + S3 + 'encryption = "none"\n[log]\nlevel = "debug"\n')) == 4


def test_who_only_looks_is_asked_for_no_secret(tmp_path):
    path = tmp_path / "relaypacs.toml"
    path.write_text(STRICT + WEB + 'credentials_env = "W"\n')
    assert load_config(path, {"W_TOKEN": "short"}, secrets=False).node.profile == "production"


@pytest.mark.parametrize(
    "secret",
    ["password", "Password123", "minioadmin", "changeme", "orthanc", "admin!", "123456789012", "a" * 16, "relaypacs",
     "test-test-test", "short"],
)  # fmt: skip
def test_what_is_weak(secret):
    assert weakness(secret)


@pytest.mark.parametrize("secret", [GOOD, "correct horse battery staple", "3f9a1c77e0b24d5588aa"])
def test_what_is_not(secret):
    assert weakness(secret) == ""


def test_the_name_of_the_user_is_no_password():
    assert weakness("ct1-scanner-42", "ct1-scanner")


def test_a_public_sidecar_is_closed_in_every_profile(refused):
    public = "[sidecar]\nhost = '0.0.0.0'\n"
    token = {"RELAYPACS_SIDECAR__TOKEN": "f3b1c2d4e5f60718293a4b5c"}
    for profile in ("development", "staging"):
        (one,) = refused(public, {}, profile)
        assert "[sidecar] host: others could read this without showing anything: write 127.0.0.1, give" in one
        assert refused(public, token, profile) == []
        assert refused(public + "certificate = '/etc/tls.pem'\n", {}, profile) == []
    for profile in ("production", "dr"):
        (one,) = refused(public, token, profile)
        assert f"[sidecar] host: {profile} refuses this: is public: write 127.0.0.1, give `certificate`" in one
        assert refused(public + "certificate = '/etc/tls.pem'\n", token, profile) == []
    (one,) = refused("", {"RELAYPACS_SIDECAR__TOKEN": "hunter2"}, "development")
    assert "write at least 16 ASCII characters" in one
    assert "hunter2" not in one
