"""Twenty wrong configurations with what is said of each; rendered into docs/configuration.md.

`python -m tests.unit.config.gallery` prints the page's section. Each is as short as the mistake allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from relaypacs.config import load_config
from relaypacs.errors import ConfigError

PLACE = "relaypacs.toml"


@dataclass(frozen=True)
class Wrong:
    """A mistake somebody makes: its title, what the file says, what the environment says."""

    title: str
    text: str
    environ: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    """Further files, in which case the first is one of a folder."""


PACS = '[[destination]]\nname = "pacs"\nkind = "dimse"\nhost = "pacs.example"\ncalled_ae = "PACS"\n'
GALLERY = (
    Wrong("No TOML", "[receive]\nport = 11112\nae_titles = [RELAY]\n"),
    Wrong("An option misspelt", "[receive]\nprot = 104\n"),
    Wrong("A section misspelt", "[recieve]\nport = 104\n"),
    Wrong("A number out of bounds", "[receive]\nport = 111120\n"),
    Wrong("Text where a number belongs", '[receive]\nprocesses = "two"\n'),
    Wrong("A word that is none of those there are", '[log]\nlevel = "verbose"\n'),
    Wrong("An AE title that is too long", '[receive]\nae_titles = ["RELAY_OF_THE_WHOLE_HOSPITAL"]\n'),
    Wrong("One bracket where two belong", '[caller]\nae_title = "CT_1"\n'),
    Wrong("No CIDR network", '[[caller]]\nae_title = "CT_1"\nnetworks = ["10.20.30.0/33"]\n'),
    Wrong("A destination without what its kind needs", '[[destination]]\nname = "pacs"\nkind = "dimse"\n'),
    Wrong("A rule that names no destination", PACS + '[[rule]]\nname = "all"\nto = ["pcas"]\n'),
    Wrong("A name used twice", PACS + PACS),
    Wrong("A rule that says both", PACS + '[[rule]]\nname = "all"\nto = ["pacs"]\ndrop = true\n'),
    Wrong("A regular expression that is none", PACS + '[[rule]]\nname = "ct"\nmodality = "re:CT|("\nto = ["pacs"]\n'),
    Wrong("A retry schedule that is none", PACS + 'retry = "every minute"\n'),
    Wrong(
        "Credentials that are not there",
        '[[destination]]\nname = "web"\nkind = "dicomweb"\nurl = "https://web.example/rs"\ncredentials_env = "WEB"\n',
    ),
    Wrong(
        "A password in a URL",
        '[[destination]]\nname = "web"\nkind = "dicomweb"\nurl = "https://me:hunter2@web.example/rs"\n',
    ),
    Wrong("TLS without a certificate", '[tls]\nlisten = ["0.0.0.0:2762"]\n'),
    Wrong(
        "The same option in two files of a folder",
        "[receive]\nport = 104\n",
        more={"site.toml": "[receive]\nport = 11112\n"},
    ),
    Wrong("Production without encryption", '[node]\nprofile = "production"\n[receive]\nport = 104\n' + PACS),
)


def said(wrong: Wrong) -> list[str]:
    """What `relaypacs config check` says of it, with the file in the current folder."""
    with TemporaryDirectory() as folder:
        path = Path(folder, PLACE)
        path.write_text(wrong.text, encoding="utf-8")
        for name, text in wrong.more.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        try:
            load_config(Path(folder) if wrong.more else path, wrong.environ)
        except ConfigError as error:
            return [problem.replace(f"{folder}/", "") for problem in error.problems]
    return []


def render() -> str:
    """The section of the page."""
    parts = []
    for number, wrong in enumerate(GALLERY, 1):
        files = "".join(f"# {name}\n{text}" for name, text in wrong.more.items())
        text = f"# {PLACE}\n{wrong.text}{files}" if wrong.more else wrong.text
        parts.append(f"### {number}. {wrong.title}\n\n```toml\n{text}```\n\n```\n" + "\n".join(said(wrong)) + "\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(render())
