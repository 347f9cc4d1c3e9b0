"""`conf/relaypacs.toml` says what the code does."""

import re
from pathlib import Path

from relaypacs.config import Config, load_config, warnings
from relaypacs.config.problems import LISTS, SECTIONS
from relaypacs.config.reference import render

COMMITTED = Path(__file__).parents[3] / "conf" / "relaypacs.toml"
OPTION = re.compile(r"^#(?=\[\[|[a-z_]+ = )", re.MULTILINE)


def test_the_committed_file_is_the_rendered_one():
    assert COMMITTED.read_text() == render(), "run: python -m relaypacs.config.reference > conf/relaypacs.toml"


def test_as_it_stands_it_is_all_defaults():
    assert load_config(COMMITTED, {}) == Config()


def test_every_option_is_there_with_its_description():
    text = " ".join(COMMITTED.read_text().replace("\n# ", " ").split())
    for name, model in {**SECTIONS, **LISTS}.items():
        for option, field in model.model_fields.items():
            assert field.description, f"{name}.{option}"
            assert " ".join(field.description.split()) in text, f"{name}.{option}"
            assert f"#{option} = " in text


def test_uncommented_it_is_a_working_example_of_the_defaults(tmp_path):
    path = tmp_path / "all.toml"
    path.write_text(OPTION.sub("", COMMITTED.read_text()))
    config = load_config(path, {"ARCHIVE_TOKEN": "t"})
    assert [one.name for one in config.destination] == ["pacs", "archive"]
    assert [one.drop for one in config.rule] == [False, True]
    assert [one.ae_title for one in config.caller] == ["CT_1"]
    assert warnings(config, {}) == []
    shown = config.model_dump(exclude={"caller", "destination", "rule", "spool", "staging", "jobs"})
    assert shown == Config().model_dump(exclude={"caller", "destination", "rule", "spool", "staging", "jobs"})
    assert (config.spool_dir, config.staging_dir, config.jobs_url) == (
        Config().spool_dir,
        Config().staging_dir,
        Config().jobs_url,
    )


def test_no_line_is_too_long_to_read():
    assert max(map(len, COMMITTED.read_text().splitlines())) <= 104
