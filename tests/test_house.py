"""The rules of the house that a machine can see: imports have no effects, files stay small, names stay at the edge."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "pointmadi").rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]

# Imports every module, and prints what that changed of what a program shares with its libraries.
PROBE = """
import importlib, json, os, random, signal, sys
import numpy, torch
import rich.console, rich.progress  # draw a random number themselves

def state():
    return {
        "arguments": list(sys.argv),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "files": sorted(os.listdir()),
        "environment": dict(os.environ),
        "random": hash(random.getstate()),
        "numpy": numpy.random.get_state()[1].tobytes().hex(),
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "threads": torch.get_num_threads(),
        "precision": [torch.get_default_dtype().__repr__(), torch.get_float32_matmul_precision()],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.cuda.is_initialized(),
        "interrupt": signal.getsignal(signal.SIGINT).__repr__(),
    }

before = state()
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


def test_importing_anything_has_no_effect(tmp_path: Path) -> None:
    names = json.dumps([name for name in MODULES if not name.endswith("__main__")])
    found = subprocess.run([sys.executable, "-c", PROBE, names], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "[]\n", f"importing changed {found.stdout}"


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, pointmadi; print([name for name in ('torch', 'scipy', 'sklearn') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr or found.stdout


@pytest.mark.parametrize("path", SOURCES, ids=MODULES)
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize(("rooms", "most"), [(("ops", "nn", "models", "objectives"), 2500), ((), 16_000)])
def test_the_method_and_the_library_are_small(rooms: tuple[str, ...], most: int) -> None:
    chosen = [path for path in SOURCES if not rooms or path.relative_to(ROOT / "src" / "pointmadi").parts[0] in rooms]
    assert len(chosen) > 10 and sum(len(path.read_text(encoding="utf-8").splitlines()) for path in chosen) < most


def test_no_device_calls_silent_loads_or_pickles() -> None:
    forbidden = re.compile(r"\.cuda\(\)|strict=False\)|weights_only=False|pickle\.load|allow_pickle=True")
    found = [f"{path.name}: {line.strip()}" for path in SOURCES for line in path.open() if forbidden.search(line)]
    assert not [line for line in found if "zip(" not in line]


def test_constraints_cover_what_is_needed_and_name_no_place() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"\ndependencies = \[(.*?)\n\]", project, re.DOTALL)
    assert needed
    names = {re.sub("[-_.]+", "-", name).lower() for name in pinned}
    assert {name.lower() for name in re.findall(r'"([\w-]+)>=', needed[1])} <= names
    assert not [version for version in pinned.values() if re.search(r"[+:/@]", version)]
