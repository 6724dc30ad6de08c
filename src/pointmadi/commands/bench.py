"""Run a suite: many fine-tunings, few-shot episodes and probes, side by side, into one table."""

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Literal, NoReturn

from rich.console import Console

from pointmadi import config as configs
from pointmadi.commands import _results
from pointmadi.commands._peers import Published, published_on, show_peers
from pointmadi.commands._results import Result, as_csv, markdown, recipe_cells, show, write, write_text

RESULT_OF = {"finetune": _results.RESULTS, "fewshot": _results.RESULTS, "probe": "probe.json"}
JOB, LOG = "job.yaml", "log.txt"  # in the folder of a job: everything it is done with, what it said


@dataclass(frozen=True)
class Config:
    """Run the jobs of a suite as processes side by side, and make one table of all that they reach.

    A suite is a YAML file with a list `jobs`. Each has a `command` (finetune, fewshot, probe), perhaps a `recipe` (its
    path begins at the suite), and options of the command; a list in the place of a value tries each, such as
    `checkpoint: [none, runs/mine]`. Started again, a suite does what is left.

    Attributes:
        suite: the file.
        to: folder of the results, one folder below it for each job; by default runs/SUITE.
        jobs: processes at a time; 0 for one a GPU, or one a core without any.
        report: also name the best seed, which is selected on the test shapes (best).
        peers: print the numbers that others published: without a suite, or beside any; those of the sets of the suite
            are printed anyway.
    """

    TAKES_RECIPE: ClassVar[bool] = False  # its file is a suite

    suite: str = field(default="", metadata={"positional": True})
    to: str = ""
    jobs: int = 0
    report: Literal["mean", "best"] = "mean"
    peers: Published = ""


@dataclass(frozen=True)
class Job:
    """One command to be run.

    Attributes:
        name: of its folder; it says what was varied, and ends in a hash of the whole config.
        command: finetune, fewshot or probe.
        config: the config of the command.
    """

    name: str
    command: str
    config: Any

    def placed(self, folder: Path) -> Any:
        """Return the config with its results in a folder."""
        return replace(self.config, **{"to" if self.command == "probe" else "run": str(folder)})


def run(config: Config) -> None:
    """Run what is left of a suite, and print and write the table of everything that is done."""
    console = Console()
    if not config.suite:
        if not config.peers:
            raise ValueError("give a suite, such as recipes/suites/demo.yaml, or --peers")
        show_peers(config.peers, console)
        return
    if config.jobs < 0:
        raise ValueError(f"jobs is a number of processes, or 0 to choose it, not {config.jobs}")
    suite = Path(config.suite)
    jobs, to = read_suite(suite), Path(config.to or f"runs/{suite.stem}")
    faults = run_all(jobs, to, places(config.jobs), lambda line: console.print(line, highlight=False, soft_wrap=True))
    results = [result for job in jobs if job.name not in faults for result in results_of(job, to / job.name)]
    if results:
        best = config.report == "best"
        show(results, console, best)
        for name in dict.fromkeys([*published_on(results), *filter(None, [config.peers])]):
            show_peers(name, console)
        made = [write(results, to), write_text(to / "results.md", markdown(results, best))]
        made.append(write_text(to / "results.csv", as_csv(results)))
        console.print("made " + " ".join(map(str, made)), highlight=False, soft_wrap=True)
    if faults:
        raise ValueError(f"{len(faults)} of {len(jobs)} jobs failed; mend them, and the same command does what is left")


def read_suite(path: Path) -> list[Job]:
    """Read the jobs of a suite, each checked as its command would check it."""
    entries = configs.read(path).get("jobs")
    if not isinstance(entries, tuple) or not entries:
        raise ValueError(f"{path} is no suite: it has no list 'jobs', each with a 'command'")
    jobs: dict[str, Job] = {}
    for number, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, dict):
                raise ValueError("a job is lines of 'option: value', one of them 'command'")
            jobs |= {job.name: job for job in _jobs_of(entry, path)}
        except (ValueError, OSError) as error:
            raise ValueError(f"job {number} of {path}: {error}") from None
    return list(jobs.values())


def _jobs_of(entry: Mapping[Any, Any], path: Path) -> Iterator[Job]:
    """Yield a job for each combination of the values in the lists of an entry."""
    options = dict(configs.flatten(entry, "", path))
    command, recipes = options.pop("command", None), options.pop("recipe", None)
    if command not in RESULT_OF:
        raise ValueError(f"command is one of {', '.join(RESULT_OF)}, got {command}")
    cls = import_module(f"pointmadi.commands.{command}").Config
    names = recipes if isinstance(recipes, tuple) else (recipes,)
    for name in names:
        recipe = None if name is None else path.parent / str(name)
        base = configs.parse(cls, recipe=recipe)
        axes = {option: _values(base, option, value) for option, value in options.items()}
        for chosen in itertools.product(*axes.values()):
            flags = [flag for option, value in zip(axes, chosen) for flag in _flags(option, value)]
            config = configs.parse(cls, flags, recipe)
            varied = [str(value) for value, values in zip(chosen, axes.values()) if len(values) > 1]
            said = "-".join([command, *([Path(str(name)).stem] if len(names) > 1 else []), *varied])
            digest = hashlib.blake2b(configs.dump(config).encode(), digest_size=4).hexdigest()
            yield Job(f"{re.sub(r'[^A-Za-z0-9.]+', '-', said)[:60].strip('-.')}-{digest}", command, config)


def _values(base: Any, option: str, value: Any) -> Sequence[Any]:
    """List what is tried for an option; one that takes several values is only varied by a list of lists."""
    if not isinstance(value, tuple):
        return (value,)
    usual = reduce(lambda group, name: getattr(group, name, None), option.split("."), base)
    whole = isinstance(usual, tuple) and not (value and all(isinstance(item, tuple) for item in value))
    return (value,) if whole else value


def _flags(option: str, value: Any) -> list[str]:
    """Write an option as flags."""
    if isinstance(value, bool):
        group, dot, name = option.rpartition(".")
        return [f"--{option}" if value else f"--{group}{dot}no-{name}"]
    return [f"--{option}", *map(str, value)] if isinstance(value, tuple) else [f"--{option}={value}"]


def places(jobs: int = 0) -> list[dict[str, str]]:
    """Return the environment of each process at a time: its share of the cores, and a GPU where there are any."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = visible.split(",") if torch.cuda.device_count() else []
    count = jobs or len(gpus) or cores
    threads = {"OMP_NUM_THREADS": str(max(cores // count, 1))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[at % len(gpus)]} if gpus else {}) for at in range(count)]


def run_all(
    jobs: Sequence[Job], to: Path, environments: Sequence[Mapping[str, str]], tell: Callable[[str], None]
) -> dict[str, str]:
    """Run all jobs that are not done, and return what was wrong with those that failed: {name: fault}.

    Args:
        jobs: what to run.
        to: folder of their folders.
        environments: one for each process at a time.
        tell: is told in a line how each job ended.
    """
    left = [job for job in jobs if not (to / job.name / RESULT_OF[job.command]).exists()]
    tell(f"{len(jobs)} jobs, {len(jobs) - len(left)} done before, {len(environments)} at a time")
    free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for environment in environments:
        free.put(environment)
    running = _Running()

    def work(job: Job) -> tuple[str, float]:
        environment, began = free.get(), time.monotonic()
        try:
            return _run(job, to / job.name, {**os.environ, **environment}, running), time.monotonic() - began
        finally:
            free.put(environment)

    faults: dict[str, str] = {}
    with ThreadPoolExecutor(len(environments)) as pool, _interruptible():
        futures = {pool.submit(work, job): job for job in left}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                name, (fault, seconds) = futures[future].name, future.result()
                if fault:
                    faults[name] = fault
                tell(f"{number} of {len(left)}: {name}: {f'failed: {fault}' if fault else f'done in {seconds:.0f} s'}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise
    return faults


class _Running:
    """The processes that run, and the word to end them."""

    def __init__(self) -> None:
        self.lock, self.processes, self.stopped = threading.Lock(), set[subprocess.Popen[bytes]](), False

    def start(self, command: Sequence[str], **how: Any) -> "subprocess.Popen[bytes] | None":
        """Start a process, unless all were stopped."""
        with self.lock:
            if self.stopped:
                return None
            process = subprocess.Popen(command, **how)
            self.processes.add(process)
            return process

    def stop(self) -> None:
        """End all processes, and start none any more."""
        with self.lock:
            self.stopped = True
            for process in self.processes:
                process.terminate()


def _run(job: Job, folder: Path, environment: Mapping[str, str], running: _Running) -> str:
    """Run a job in a folder of its own, or go on with it; return what was wrong, "" if nothing."""
    write_text(folder / JOB, configs.dump(job.placed(folder)))
    with _owned(folder) as owner, (folder / LOG).open("ab") as log:
        if (folder / RESULT_OF[job.command]).exists():  # another suite has just done it
            return ""
        resume = ["--resume"] if hasattr(job.config, "resume") and (folder / "config.yaml").exists() else []
        command = [sys.executable, "-m", "pointmadi", job.command, str(folder / JOB), *resume]
        process = running.start(command, stdout=log, stderr=log, env=environment, **owner)
        if process is None or process.wait() == 0:
            return ""
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    mistake = process.returncode == 2 and said.startswith("error: ")
    said = said.removeprefix("error: ") if mistake else f"exit code {process.returncode}, its last words: {said}"
    return f"{said} ({folder / LOG})"


@contextmanager
def _owned(folder: Path) -> Iterator[dict[str, Any]]:
    """Hold the folder of a job, until its process ends too: one that outlives a killed suite is waited for."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield {}
        return
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield {"pass_fds": (lock.fileno(),)}


@contextmanager
def _interruptible() -> Iterator[None]:
    """Take a request to end (SIGTERM) like Ctrl-C, so that no process is left behind."""

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def results_of(job: Job, folder: Path) -> list[Result]:
    """Read what a job has reached; each classifier of a probe is a row."""
    if job.command != "probe":
        return _results.read(folder)
    found = json.loads((folder / RESULT_OF["probe"]).read_text(encoding="utf-8"))
    seeds, settings, results = found["settings"]["seeds"], found["settings"], []
    for row in found["results"]:
        for classifier, scores in row["scores"].items():
            selection = {"trees": "–", "knn": "k on held-out shapes"}.get(classifier, "C on held-out shapes")
            recipe = recipe_cells("frozen features", selection, settings["num_points"])
            own = {
                str(seed): {name: score[name] for name in ("accuracy", "mean_class")}
                for seed, score in zip(seeds, scores)
            }
            about, machine = found["sets"][row["data"]]["about"], found["machine"]
            task = f"probe, {classifier}"
            results.append(Result(task, row["data"], about, row["row"], recipe, machine, settings, own))
    return results
