"""Documents keep their word: links lead somewhere, recipes read, and the commands shown are commands that exist."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from pointmadi import cli, config
from pointmadi.commands import bench

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SUITES = sorted(ROOT.glob("recipes/suites/*.yaml"))
RECIPES = sorted(set(ROOT.glob("recipes/**/*.yaml")) - set(SUITES))


def lines_that_call(document: Path) -> list[str]:
    """Return the lines in the code blocks of a document that call `pointmadi COMMAND`, without comments and prompts."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = [re.search(rf"(?:^|[/$ ])pointmadi ((?:{'|'.join(cli.COMMANDS)})\b.*)", line) for line in lines]
    return [call[1] for call in calls if call and "[" not in call[1]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (document.parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_shown_are_commands_that_exist(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for line in lines_that_call(document):
        name, *args = shlex.split(line, comments=True)
        _, command, _, rest = cli.find(name, args)
        takes_recipe = getattr(command, "TAKES_RECIPE", True) and rest and rest[0].endswith(".yaml")
        recipe, rest = (rest[0], rest[1:]) if takes_recipe else (None, rest)
        if recipe and recipe.startswith("runs/"):  # the config of a run that the reader has made
            recipe = None
        config.parse(command, rest, recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes_read(recipe: Path) -> None:
    parsed = config.parse(import_module(f"pointmadi.commands.{recipe.parent.name}").Config, recipe=recipe)
    assert config.dump(parsed)


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_suites_read(suite: Path) -> None:
    assert bench.read_suite(suite)
