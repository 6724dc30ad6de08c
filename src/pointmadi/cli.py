"""The command `pointmadi COMMAND [RECIPE.yaml] [ARGUMENTS] [--flags]`: finds the command, its config, and runs it."""

import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

# Each is a module of `pointmadi.commands` with a dataclass `Config` and a function `run(config)`; TAKES_RECIPE = False
# says that it takes no recipe. A module is imported when its command is called, because it brings torch.
COMMANDS = {
    "pretrain": "pre-train an encoder on your shapes, or on built-in ones",
    "probe": "measure what an encoder is worth: linear SVM, logistic regression, k-NN",
    "finetune": "fine-tune an encoder on a labelled set: classes of shapes, or parts of their points",
    "fewshot": "learn a few classes from a few shapes of each, over folds",
    "bench": "run a list of fine-tunings, few-shot episodes and probes side by side, into one table",
    "rebuild": "rebuild a cloud by reverse diffusion",
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


def _run(name: str, args: Sequence[str]) -> None:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(COMMANDS)}"
        raise ValueError(f"unknown command '{name}'; {hint}")
    from pointmadi import config
    from pointmadi.commands._runtime import keep_memory

    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {message}\n"
    keep_memory()
    command = import_module(f"pointmadi.commands.{name}")
    takes_recipe = getattr(command, "TAKES_RECIPE", True)
    recipe = args[0] if takes_recipe and args and args[0].endswith((".yaml", ".yml")) else None
    rest = args[1:] if recipe else args
    command.run(config.parse(command.Config, rest, recipe, prog=f"pointmadi {name}" + " [RECIPE.yaml]" * takes_recipe))
