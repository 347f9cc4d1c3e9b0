"""Credentials come from variables or files, whole or not at all, and are never shown."""

import pytest

from relaypacs.config import Destination, credentials
from relaypacs.config.secrets import read_variable
from relaypacs.errors import ConfigError

WEB = Destination(name="web", kind="dicomweb", url="https://pacs/rs", credentials_env="PACS")
OPEN = Destination(name="web", kind="dicomweb", url="https://pacs/rs")


def problems(environ):
    with pytest.raises(ConfigError) as caught:
        credentials(WEB, environ)
    return "\n".join(caught.value.problems)


def test_none_are_asked_for():
    found = credentials(OPEN, {"PACS_TOKEN": "t", "_TOKEN": "t"})
    assert (found.token, found.username, found.password) == ("", "", "")


def test_user_and_password_or_a_token():
    found = credentials(WEB, {"PACS_USERNAME": "u", "PACS_PASSWORD": "p w"})
    assert (found.token, found.username, found.password) == ("", "u", "p w")
    assert credentials(WEB, {"PACS_TOKEN": "t"}).token == "t"


def test_files_are_read_now_and_lose_their_final_newline(tmp_path):
    file = tmp_path / "token"
    file.write_text("one\n")
    assert credentials(WEB, {"PACS_TOKEN_FILE": str(file)}).token == "one"
    file.write_text("two\r\n")
    assert credentials(WEB, {"PACS_TOKEN_FILE": str(file)}).token == "two"


def test_no_repr_shows_a_secret():
    found = credentials(WEB, {"PACS_USERNAME": "hunter1", "PACS_PASSWORD": "hunter2"})
    assert "hunter" not in repr(found) + str(found)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "PACS_USERNAME and PACS_PASSWORD are not set; set both"),
        ({"PACS_USERNAME": "u"}, "PACS_PASSWORD is not set"),
        ({"PACS_PASSWORD": "hunter2"}, "PACS_USERNAME is not set"),
        ({"PACS_TOKEN": "hunter2", "PACS_USERNAME": "u", "PACS_PASSWORD": "p"}, "keep one kind"),
        ({"PACS_USERNAME": "u:hunter2", "PACS_PASSWORD": "p"}, "colon"),
        ({"PACS_TOKEN": "hunter2\r\nX-Header: 1"}, "HTTP header"),
        ({"PACS_TOKEN": "hunter2 "}, "blank at an end"),
        ({"PACS_TOKEN": "hunter2", "PACS_TOKEN_FILE": "/x"}, "both PACS_TOKEN and PACS_TOKEN_FILE"),
        ({"PACS_TOKEN_FILE": "/nonexistent"}, "No such file"),
        ({"PACS_TOKEN_FILE": "/"}, "Is a directory"),
        ({"PACS_TOKEN_FILE": "/dev/null"}, "is empty"),
        ({"PACS_TOKEN_FILE": "/dev/zero"}, "is too long"),
        ({"PACS_TOKEN_FILE": "a\0b"}, "can't be read"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(environ, says):
    text = problems(environ)
    assert says in text
    assert "hunter2" not in text


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfehunter2")
    assert "not UTF-8" in problems({"PACS_TOKEN_FILE": str(tmp_path / "token")})


def test_every_problem_at_once():
    text = problems({"PACS_USERNAME_FILE": "/nonexistent1", "PACS_PASSWORD_FILE": "/nonexistent2"})
    assert "/nonexistent1" in text
    assert "/nonexistent2" in text


def test_a_variable_that_is_not_set():
    assert read_variable("X", {}) == ""
    assert read_variable("X", {"X": "v"}) == "v"
