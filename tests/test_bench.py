"""`pointmadi bench` from outside: grids, processes, a kill on the way, faults, tables, published numbers."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pointmadi import cli
from pointmadi.commands import _peers, bench
from pointmadi.commands._results import Result, short
from pointmadi.data.clouds import Clouds

ENCODER = "encoder: {name: nano, dim: 12, depth: 1, heads: 2, num_patches: 4, patch_size: 4, widths: [4, 8, 8]}"
RECIPE = f"""
data: shapes.npz
num_points: 24
{ENCODER}
classifier: {{widths: [8, 8]}}
train: {{epochs: 2, lr: 1.0e-2, warmup: 0, precision: fp32, device: cpu}}
"""
SUITE = """
jobs:
  - {command: finetune, recipe: tiny.yaml, batch_size: 8, labels: [1.0, 0.5], seeds: [0, 1]}
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    label = torch.arange(36) % 3
    points = torch.randn(36, 32, 3, generator=torch.Generator().manual_seed(0))
    points = points * torch.tensor([[1.0, 1, 1], [4, 1, 1], [4, 4, 0.2]])[label][:, None]
    known = {"label": label, "classes": ("ball", "bar", "board"), "split": torch.arange(36) // 3 % 2}
    Clouds.pack(points, [f"shape {i}" for i in range(36)], **known).write("shapes.npz")
    Path("suites").mkdir()
    Path("suites/tiny.yaml").write_text(RECIPE)
    return tmp_path


def suite(text):
    path = Path("suites/suite.yaml")
    path.write_text(text)
    return path


def test_lists_make_a_grid_and_values_that_are_lists_do_not():
    jobs = bench.read_suite(suite("""
jobs:
  - {command: finetune, recipe: [tiny.yaml], checkpoint: [none, "runs/x-{seed}"], labels: [1.0, 0.1], seeds: [0, 1]}
  - {command: finetune, seeds: [[0], [1, 2]], augment.scale: [0.9, 1.1], skip_bad: [true, false], encoder: [nano, tiny]}
  - {command: probe, runs: [none, runs/x], data: objects, floors: false}
"""))  # fmt: skip
    found = [job.config for job in jobs]
    assert [(own.checkpoint, own.labels) for own in found[:4]] == [
        ("none", 1.0), ("none", 0.1), ("runs/x-{seed}", 1.0), ("runs/x-{seed}", 0.1)
    ]  # fmt: skip
    assert {own.seeds for own in found[:4]} == {(0, 1)} and found[0].train.lr == 0.01
    assert [(own.seeds, own.skip_bad, own.encoder.dim) for own in found[4:12]] == [
        (seeds, bad, dim) for seeds in ((0,), (1, 2)) for bad in (True, False) for dim in (96, 192)
    ]
    assert {own.augment.scale for own in found[4:12]} == {(0.9, 1.1)}
    assert found[12].runs == ("none", "runs/x") and not found[12].floors and len(found) == 13
    assert len({job.name for job in jobs}) == 13 and jobs[3].name.startswith("finetune-runs-x-seed-0.1-")


def test_mistakes_in_a_suite_are_one_line(capsys):
    wrong = {
        "jobs: []": "is no suite",
        "task: parts": "is no suite",
        "jobs: [{command: pretrain}]": "job 1 of suites/suite.yaml: command is one of finetune, fewshot, probe",
        "jobs: [{command: probe}, {command: probe, sedes: [1]}]": "job 2 of suites/suite.yaml: unknown option",
        "jobs: [{command: finetune, recipe: no.yaml}]": "there is no recipe suites/no.yaml",
        "jobs: [finetune]": "a job is lines of",
    }
    for text, message in wrong.items():
        assert cli.main(["bench", str(suite(text))]) == 2
        assert message in capsys.readouterr().err, text
    assert cli.main(["bench"]) == 2 and "give a suite" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_places_share_cores_and_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert bench.places() == [{"OMP_NUM_THREADS": "1"}] * 8
    assert bench.places(2) == [{"OMP_NUM_THREADS": "4"}] * 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in bench.places()] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in bench.places(3)] == ["5", "7", "5"]


def test_a_killed_suite_resumes_and_a_fault_stops_nobody(capsys):
    path = suite(SUITE + "  - {command: finetune, recipe: tiny.yaml, data: nowhere.npz, checkpoint: none}\n")
    started = subprocess.Popen([sys.executable, "-m", "pointmadi", "bench", str(path), "--jobs", "1"])
    jobs = bench.read_suite(path)
    folders = [Path("runs/suite", job.name) for job in jobs]
    until = time.monotonic() + 120
    while not (folders[0] / "results.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) == 130
    done = (folders[0] / "results.json").stat().st_mtime_ns
    assert not (folders[1] / "results.json").exists()

    assert cli.main(["bench", str(path), "--jobs", "2"]) == 2
    printed = capsys.readouterr()
    assert "1 of 3 jobs failed" in printed.err
    assert "3 jobs, 1 done before, 2 at a time" in printed.out
    fault = next(line for line in printed.out.splitlines() if "failed:" in line)
    assert folders[2].name in fault and "nowhere.npz" in fault and "Traceback" not in fault
    assert (folders[0] / "results.json").stat().st_mtime_ns == done

    found = json.loads(Path("runs/suite/results.json").read_text())
    assert [row["recipe"]["labels"] for row in found] == ["100 %", "50 %"]
    assert all(set(row["scores"]) == {"0", "1"} for row in found)
    lines = Path("runs/suite/results.md").read_text().splitlines()
    assert len(lines) == 4
    for column in ("augmentation", "selection", "epochs", "method", "machine", "about"):
        assert f" {column} |" in lines[0]
    assert all("fingerprint" in line and "±" in line and "best, selected" not in line for line in lines[2:])
    rows = list(csv.DictReader(Path("runs/suite/results.csv").read_text().splitlines()))
    assert len(rows) == 4 and float(rows[0]["accuracy"]) == found[0]["scores"]["0"]["accuracy"]


def test_a_probe_is_a_row_for_each_classifier(tmp_path):
    score = {"accuracy": 0.5, "mean_class": 0.25, "chosen": 1.0}
    values = {
        "machine": "a chip", "settings": {"seeds": [3, 4], "num_points": 64},
        "sets": {"set": {"about": "fingerprint 1"}},
        "results": [{"data": "set", "row": "x", "dim": 4, "scores": {"svm": [score] * 2, "trees": [score] * 2}}],
    }  # fmt: skip
    Path("probe.json").write_text(json.dumps(values))
    rows = bench.results_of(bench.Job("probe", "probe", None), tmp_path)
    assert [(row.task, row.checkpoint, row.machine) for row in rows] == [
        ("probe, svm", "x", "a chip"), ("probe, trees", "x", "a chip")
    ]  # fmt: skip
    assert rows[0].scores == {seed: {"accuracy": 0.5, "mean_class": 0.25} for seed in ("3", "4")}
    assert rows[0].recipe["selection"].startswith("C on") and rows[1].recipe["selection"] == "–"


def test_published_numbers_have_sources_and_remarks(capsys):
    content = _peers.read_peers()
    for name, peers in content["tables"].items():
        assert peers["remarks"] and any(row["method"] == "Point-MaDi" for row in peers["rows"])
        for row in peers["rows"]:
            assert len(row["scores"]) == len(peers["columns"]) and any(row["scores"]), row
            assert row["source"].split() and set(row["source"].split()) <= set(content["sources"]), row
        assert cli.main(["bench", "--peers", name]) == 0
        out = capsys.readouterr().out
        assert "not comparable" in out and "Point-MaDi" in out


def test_published_numbers_stand_beside_their_sets_only():
    def result(task, data):
        return Result(task, data, "", "none", {}, "", {}, {})

    found = [result("classification", f"data/{name}.npz") for name in ("modelnet10", "ScanObjectNN_hardest", "shapes")]
    assert _peers.published_on(found) == ["scanobjectnn"]
    found = [result("5-way 10-shot", "modelnet40.npz"), result("classification", "modelnet40.npz")]
    assert _peers.published_on(found) == ["fewshot", "modelnet40"]


def test_sets_have_short_names():
    found = {"data/shapes.npz": "shapes", "objects:240": "objects:240", "modelnet40:/data/m40": "modelnet40:m40"}
    assert {data: short(data) for data in found} == found
