"""A folder of files is one configuration: merged in the order of names, each mistake with the file and line it has."""

import pytest

from relaypacs.config import load_config
from relaypacs.config.files import digest, read
from relaypacs.errors import ConfigError

FILES = {
    "10-node.toml": '[node]\nname = "one"\n[receive]\nport = 104\n',
    "20-pacs.toml": '[[destination]]\nname = "pacs"\nkind = "dimse"\nhost = "h"\ncalled_ae = "P"\n',
    "30-more.toml": '[receive]\nprocesses = 3\n[[caller]]\nae_title = "CT"\n',
    "40-web.toml": 'caller = [{ae_title = "MR"}]\n[[destination]]\nname = "web"\nkind = "dicomweb"\n'
    'url = "https://web.example"\n[[rule]]\nname = "all"\nto = ["pacs", "web"]\n',
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "conf"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def problems(folder, **environ):
    with pytest.raises(ConfigError) as caught:
        load_config(folder, environ)
    return [one.replace(f"{folder}/", "").replace(str(folder), "conf") for one in caught.value.problems]


def test_tables_are_merged_and_lists_appended_in_the_order_of_names(folder):
    config = load_config(folder, {})
    assert (config.node.name, config.receive.port, config.receive.processes) == ("one", 104, 3)
    assert [one.name for one in config.destination] == ["pacs", "web"]
    assert [one.ae_title for one in config.caller] == ["CT", "MR"]


def test_what_is_no_configuration_is_left_alone(folder):
    before = load_config(folder, {})
    (folder / ".hidden.toml").write_text("rubbish")
    (folder / "20-pacs.toml.20260101T000000Z.bak").write_text("rubbish")
    (folder / "readme.txt").write_text("rubbish")
    assert load_config(folder, {}) == before


def test_the_same_option_twice_names_both_places(folder):
    (folder / "90-late.toml").write_text('# late\n[receive]\nprocesses = 4\nport = 105\n[node]\nname = "two"\n')
    assert problems(folder) == [
        "90-late.toml:3: [receive] processes: stands in 30-more.toml:2 already; keep one of them",
        "90-late.toml:4: [receive] port: stands in 10-node.toml:4 already; keep one of them",
        "90-late.toml:6: [node] name: stands in 10-node.toml:2 already; keep one of them",
    ]


def test_a_table_and_a_list_of_one_name(folder):
    (folder / "90-late.toml").write_text('[caller]\nae_title = "X"\n')
    assert problems(folder) == ["90-late.toml:1: caller: stands in 30-more.toml:3 already; keep one of them"]


def test_a_mistake_has_its_own_file_and_line(folder):
    (folder / "50-wrong.toml").write_text(
        '\n[[destination]]\nname = "old"\nprot = 1\n[[caller]]\nae_title = "A\\\\B"\n'
    )
    found = problems(folder)
    assert '50-wrong.toml:4: destination[3] "old" prot: no such option; did you mean port?' in found
    assert any(one.startswith("50-wrong.toml:6: caller[3] ") for one in found)
    assert any(one.startswith('50-wrong.toml:2: destination[3] "old": kind is missing') for one in found)
    assert len(found) == 3


def test_an_item_of_an_inline_list_stands_where_the_list_does(folder):
    (folder / "40-web.toml").write_text(FILES["40-web.toml"].replace('"MR"', '"A\\\\B"'))
    (folder / "60-more.toml").write_text("\n\ncaller = [{}]\n")
    found = problems(folder)
    assert any(one.startswith("40-web.toml:1: caller[2] ") for one in found)
    assert any(one.startswith("60-more.toml:3: caller[3]: ae_title is missing") for one in found)


def test_every_file_that_is_no_toml_is_named(folder):
    (folder / "10-node.toml").write_text("x = \n")
    (folder / "20-pacs.toml").write_text("y = [\n")
    assert [one.partition(": ")[0] for one in problems(folder)] == ["10-node.toml:1:5", "20-pacs.toml:1"]


def test_what_stands_nowhere_is_said_of_the_folder(folder):
    (folder / "40-web.toml").write_text("routing = 3\n")
    assert problems(folder, RELAYPACS_RECEIVE__PORT="x")[0].startswith("environment RELAYPACS_RECEIVE__PORT: ")


def test_the_environment_is_laid_over_all_files(folder):
    assert load_config(folder, {"RELAYPACS_RECEIVE__PORT": "11113"}).receive.port == 11113


def test_the_digest_tells_texts_and_names_apart(folder):
    before = digest(read(folder))
    assert digest(read(folder)) == before
    (folder / "30-more.toml").rename(folder / "31-more.toml")
    renamed = digest(read(folder))
    (folder / "31-more.toml").write_text(FILES["30-more.toml"] + "\n")
    assert len({before, renamed, digest(read(folder))}) == 3


def test_a_file_that_cant_be_read_is_named(folder):
    (folder / "70-folder.toml").mkdir()
    assert problems(folder)[0].startswith("70-folder.toml: can't be read: Is a directory")
