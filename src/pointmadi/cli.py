"""The command `pointmadi COMMAND [RECIPE.yaml] [ARGUMENTS] [--flags]`: finds the command, its config, and runs it."""

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

# Each is a module of `pointmadi.commands` with a dataclass `Config` and a function `run(config)`, or with `COMMANDS`, a
# dictionary of such pairs. TAKES_RECIPE = False in a config says that no recipe goes before its arguments. A module is
# imported when its command is called, because it brings torch.
COMMANDS = {
    "pretrain": "pre-train an encoder on your shapes, or on built-in ones",
    "probe": "measure what an encoder is worth: linear SVM, logistic regression, k-NN",
    "finetune": "fine-tune an encoder on a labelled set: classes of shapes, or parts of their points",
    "scenes": "fine-tune an encoder to tell the class of every point of rooms",
    "fewshot": "learn a few classes from a few shapes of each, over folds",
    "bench": "run a list of fine-tunings, few-shot episodes and probes side by side, into one table",
    "rebuild": "rebuild a cloud by reverse diffusion",
    "data": "list, check, look at and pack data",
    "convert": "turn checkpoints of Point-MaDi, Point-MAE and PCP-MAE into ours, and back",
}
USAGE = f"""\
usage: pointmadi COMMAND [RECIPE.yaml] [OPTIONS]

Self-supervised pre-training for 3D point clouds.

commands:
{chr(10).join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())}

`pointmadi COMMAND --help` explains the options of a command. A recipe states options in YAML; flags come on top.
`pointmadi --version` prints the version. With POINTMADI_TRACEBACK=1 an error shows where it arose.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 after a mistake of the user's, 130 after Ctrl-C."""
    name, *args = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if name in ("-h", "--help"):
            print(USAGE, end="")
        elif name == "--version":
            print(f"pointmadi {version('pointmadi')}")
        else:
            _run(name, args)
    except (ValueError, OSError) as error:
        if os.environ.get("POINTMADI_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def find(name: str, args: Sequence[str]) -> tuple[str, type[Any], Callable[[Any], None], Sequence[str]]:
    """Find a command, or the sub-command that the arguments begin with: its name, config, function and arguments.

    Raises:
        ValueError: there is no such command.
    """
    command = import_module(f"pointmadi.commands.{_known(name, 'command', COMMANDS)}")
    if not hasattr(command, "COMMANDS"):
        return name, command.Config, command.run, args
    first, *rest = args or [""]
    config, run = command.COMMANDS[_known(first, f"command of pointmadi {name}", command.COMMANDS)]
    return f"{name} {first}", config, run, rest


def _usage(name: str) -> str:
    """Say which sub-commands a command has; nothing where it has none."""
    commands = getattr(import_module(f"pointmadi.commands.{name}"), "COMMANDS", {})
    lines = [f"  {sub:<10} {config.__doc__.splitlines()[0]}" for sub, (config, _) in commands.items()]
    return "\n".join([f"usage: pointmadi {name} COMMAND [OPTIONS]", "", *lines]) if lines else ""


def _known(name: str, what: str, names: Iterable[str]) -> str:
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(names)}"
        raise ValueError(f"unknown {what} '{name}'; {hint}")
    return name


def _run(name: str, args: Sequence[str]) -> None:
    from pointmadi import config
    from pointmadi.commands._runtime import keep_memory

    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {message}\n"
    if list(args) in ([], ["-h"], ["--help"]) and (usage := _usage(_known(name, "command", COMMANDS))):
        print(usage)
        return
    called, Config, run, args = find(name, args)
    keep_memory()
    takes_recipe = getattr(Config, "TAKES_RECIPE", True)
    recipe = args[0] if takes_recipe and args and args[0].endswith((".yaml", ".yml")) else None
    rest = args[1:] if recipe else args
    run(config.parse(Config, rest, recipe, prog=f"pointmadi {called}" + " [RECIPE.yaml]" * takes_recipe))
