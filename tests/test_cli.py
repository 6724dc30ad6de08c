"""The command line from outside: help, exit codes, and one line for every mistake."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from pointmadi import cli
from pointmadi.commands._runtime import keep_memory


@dataclass(frozen=True)
class Config:
    """Do nothing much.

    Attributes:
        target: what to do it to.
        fail: how to fail.
        count: how often.
    """

    target: str = field(default="all", metadata={"positional": True})
    fail: str = ""
    count: int = 1


FAILURES = {
    "value": ValueError("too few\n  points"),
    "file": FileNotFoundError(2, "No such file", "x.ply"),
    "stop": KeyboardInterrupt(),
    "bug": RuntimeError("a bug"),
}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Put a dummy in the place of the command `probe` and return the configs that it was run with."""
    configs: list[Config] = []

    def run(config: Config) -> None:
        configs.append(config)
        if config.fail:
            raise FAILURES[config.fail]

    dummy = SimpleNamespace(Config=Config, run=run)
    monkeypatch.setattr(cli, "import_module", lambda name: {"pointmadi.commands.probe": dummy}[name])
    return configs


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_lists_the_commands(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: pointmadi COMMAND [RECIPE.yaml]")
    assert all(f"  {name} " in text for name in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pointmadi 0.")


def test_help_of_a_command(ran: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and not ran
    assert "usage: pointmadi probe [RECIPE.yaml]" in text and "how often." in text


def test_recipe_arguments_and_flags(ran: list[Config], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("target: one\ncount: 2")
    assert cli.main(["probe"]) == 0
    assert cli.main(["probe", str(recipe)]) == 0
    assert cli.main(["probe", str(recipe), "two", "--count", "3"]) == 0
    assert ran == [Config(), Config("one", count=2), Config("two", count=3)]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ("prob", 2, "error: unknown command 'prob'; did you mean 'probe'?"),
        ("xyzzy", 2, f"error: unknown command 'xyzzy'; choose from {', '.join(cli.COMMANDS)}"),
        ("probe none.yaml", 2, "error: there is no recipe none.yaml"),
        ("probe --cuont 3", 2, "error: unknown option '--cuont'; did you mean '--count'?"),
        ("probe --count x", 2, "error: option '--count' expects INT, got x"),
        ("probe --fail value", 2, "error: too few points"),
        ("probe --fail file", 2, "error: [Errno 2] No such file: 'x.ply'"),
        ("probe --fail stop", 130, "interrupted"),
    ],
)
def test_mistakes_are_one_line(
    ran: list[Config], capsys: pytest.CaptureFixture[str], args: str, code: int, message: str
) -> None:
    assert cli.main(args.split()) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == f"{message}\n"


def test_a_bug_keeps_its_traceback(ran: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["probe", "--fail", "bug"])
    monkeypatch.setenv("POINTMADI_TRACEBACK", "1")
    with pytest.raises(ValueError, match="too few"):
        cli.main(["probe", "--fail", "value"])


def test_python_m_and_help_without_torch() -> None:
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pointmadi", "--help"], capture_output=True, text=True
    )
    assert found.returncode == 0 and found.stdout.startswith("usage: pointmadi")
    assert "pointmadi.cli" in found.stderr and "torch" not in found.stderr


def test_memory_is_kept_on_glibc_unless_the_user_tunes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert not keep_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory()
