"""The gallery of wrong configurations: each is refused, with a place and a mend, and the page says the same."""

from pathlib import Path

import pytest

from relaypacs.config.change import OPTIONS
from tests.unit.config.gallery import GALLERY, Wrong, render, said

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_there_are_twenty():
    assert len({one.title for one in GALLERY}) == len(GALLERY) == 20


@pytest.mark.parametrize("wrong", GALLERY, ids=lambda one: one.title)
def test_each_is_told_where_and_what_to_do(wrong: Wrong):
    found = said(wrong)
    assert found, "it loads"
    for problem in found:
        file, line, rest = problem.split(":", 2)
        assert file in {"relaypacs.toml", *wrong.more}
        assert int(line) >= 1
        assert len(rest) > 20
        assert "hunter2" not in problem


def test_the_page_shows_them():
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition("<!-- gallery -->\n\n")[2].strip() == render().strip(), (
        "run: python -m tests.unit.config.gallery, and put it at the end of docs/configuration.md"
    )


def test_the_page_names_every_option_a_running_node_takes():
    page = PAGE.read_text(encoding="utf-8").partition("## What a running node takes")[2].partition("\n## ")[0]
    for section, options in OPTIONS.items():
        assert f"[{section}]" in page
        for option in options:
            assert f"`{option}`" in page, option
