"""A folder of shapes, its cache, its unreadable files; and the names of sources."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pointmadi.commands._runtime import progress_bar
from pointmadi.data import listing, packing
from pointmadi.data.batches import Batches
from pointmadi.data.clouds import Clouds
from pointmadi.data.collect import Labels, Scan, collect, list_folder
from pointmadi.data.formats import Raw, Reading
from pointmadi.data.sources import Endless, batches_from, open_source
from pointmadi.data.synthetic.procedural import ProceduralBatches


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POINTMADI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    root = tmp_path / "shapes"
    for i, name in enumerate(("b/one.npy", "a/two.npy", "a/deep/three.txt", "c/four.npy")):
        write(root / name, seed=i)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.npy").write_text("")
    (root / "notes.md").write_text("nothing")
    return root


def write(path: Path, seed: int, num_points: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.random.default_rng(seed).normal(size=(num_points, 3))
    np.save(path, table) if path.suffix == ".npy" else np.savetxt(path, table)


def scan_folder(
    path: Path, num_points: int, labels: Labels = "none", features: tuple[str, ...] = (), **how: object
) -> Scan:
    return collect(list_folder(path, labels), Reading(num_points, features), **how)  # type: ignore[arg-type]


def read_folder(*args: object, **how: object) -> Clouds:
    clouds = scan_folder(*args, **how).clouds  # type: ignore[arg-type]
    assert isinstance(clouds, Clouds)
    return clouds


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the files that are really read."""
    read: list[str] = []
    real = listing.read_file

    def noting(path: Path) -> Raw:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(listing, "read_file", noting)
    return read


def test_a_folder_is_read_in_the_order_of_its_names(shapes: Path) -> None:
    clouds = read_folder(shapes, 32)
    assert clouds.names == ("a/deep/three.txt", "a/two.npy", "b/one.npy", "c/four.npy")
    assert clouds.points.shape == (4, 32, 3) and clouds.label is None
    again = read_folder(shapes, 32, cache=False)
    assert again.fingerprint() == clouds.fingerprint()


def test_folders_are_classes_if_asked(shapes: Path) -> None:
    clouds = read_folder(shapes, 32, labels="folders")
    assert clouds.classes == ("a", "b", "c") and clouds.label is not None and clouds.label.tolist() == [0, 0, 1, 2]
    write(shapes / "loose.npy", seed=9)
    with pytest.raises(ValueError, match=r"loose\.npy lies in no sub-folder"):
        read_folder(shapes, 32, labels="folders")


def test_only_new_and_changed_files_are_read_again(shapes: Path, cache: Path, reads: list[str]) -> None:
    first = read_folder(shapes, 32)
    assert len(reads) == 4
    reads.clear()
    assert read_folder(shapes, 32, labels="folders").fingerprint() != first.fingerprint() and not reads
    assert read_folder(shapes, 32).fingerprint() == first.fingerprint() and not reads

    write(shapes / "b/one.npy", seed=7)  # changed: same size, another time
    os.utime(shapes / "b/one.npy", ns=(1, 1))
    write(shapes / "a/new.npy", seed=8)
    (shapes / "c/four.npy").unlink()
    second = read_folder(shapes, 32)
    assert sorted(reads) == ["new.npy", "one.npy"]
    assert second.names == ("a/deep/three.txt", "a/new.npy", "a/two.npy", "b/one.npy")
    reads.clear()
    assert read_folder(shapes, 32).fingerprint() == second.fingerprint() and not reads
    assert read_folder(shapes, 32, cache=False).fingerprint() == second.fingerprint()

    reads.clear()
    read_folder(shapes, 16)
    assert len(reads) == 4  # another number of points is another set
    (shapes / "a/new.npy").unlink()
    reads.clear()
    assert len(read_folder(shapes, 32)) == 3 and not reads


def test_a_damaged_cache_is_made_again(shapes: Path, cache: Path, reads: list[str]) -> None:
    first = read_folder(shapes, 32)
    (kept,) = cache.rglob("points.npy")
    kept.write_bytes(kept.read_bytes()[:200])
    assert read_folder(shapes, 32).fingerprint() == first.fingerprint() and len(reads) == 8


def test_a_cache_that_cannot_be_written_is_a_warning(shapes: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="POINTMADI_CACHE"):
        assert len(read_folder(shapes, 32)) == 4


def test_unreadable_files_stop_by_default_and_are_listed_if_skipped(
    shapes: Path, cache: Path, reads: list[str]
) -> None:
    for i in range(7):
        (shapes / f"bad{i}.ply").write_text("x")
    (shapes / "gone.npy").symlink_to(shapes / "nowhere.npy")
    with pytest.raises(ValueError, match=r"8 of 12 files in .* cannot be read; .*skip_bad") as caught:
        read_folder(shapes, 32)
    message = str(caught.value)
    assert message.count("bad") == 7 and "bad0.ply: damaged" in message and message.endswith("… and 3 more")

    reads.clear()
    scan = scan_folder(shapes, 32, skip_bad=True)
    assert len(scan.clouds) == 4 and len(reads) == 8  # the good ones were kept by the first attempt
    assert [name for name, _ in scan.unreadable] == [*(f"bad{i}.ply" for i in range(7)), "gone.npy"]
    assert scan.listing is not None and cache in scan.listing.parents
    assert scan.listing.read_text().splitlines()[0].startswith("bad0.ply\tdamaged")
    without = scan_folder(shapes, 32, skip_bad=True, cache=False).listing
    assert without is not None and without.read_text() == scan.listing.read_text()


def test_a_folder_without_shapes_is_an_error(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_folder(tmp_path / "nowhere", 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no file of these kinds: \.ply"):
        read_folder(tmp_path / "empty", 32)
    (tmp_path / "empty" / "x.ply").write_text("x")
    with pytest.raises(ValueError, match=r"1 of 1 files .* cannot be read"):
        read_folder(tmp_path / "empty", 32, skip_bad=True)


def test_features_are_kept_and_cached(tmp_path: Path, reads: list[str]) -> None:
    root = tmp_path / "shapes"
    root.mkdir()
    for i in range(3):
        table = np.random.default_rng(i).random((50, 4))
        np.save(root / f"{i}.npy", table)
    first = read_folder(root, 32, features=("intensity",))
    (root / "1.npy").unlink()
    np.save(root / "9.npy", table)
    second = read_folder(root, 32, features=("intensity",))
    assert second.feature_names == ("intensity",) and len(reads) == 4
    assert first.features is not None and second.features is not None
    assert torch.equal(second.features[0], first.features[0])
    assert torch.equal(second.features[2], first.features[2])


def test_processes_and_progress_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        write(tmp_path / "many" / f"{i}.npy", seed=i, num_points=80)
    serial = read_folder(tmp_path / "many", 32, cache=False)
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(packing, "cores", lambda: 2)
    parallel = read_folder(tmp_path / "many", 32, cache=False, progress=lambda *now: calls.append(now))
    assert parallel.fingerprint() == serial.fingerprint()
    assert calls == sorted(calls) and calls[-1] == (40, 40) and len(calls) > 2


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_a_reader_that_dies_neither_hangs_nor_takes_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(40):
        write(tmp_path / "many" / f"{i:02d}.npy", seed=i)
    real = listing.read_file

    def dying(path: Path) -> Raw:
        if path.name in ("07.npy", "31.npy"):
            os._exit(1)
        return real(path)

    monkeypatch.setattr(packing, "cores", lambda: 2)
    monkeypatch.setattr(listing, "read_file", dying)
    scan = scan_folder(tmp_path / "many", 32, skip_bad=True)
    died = "the process that read it died"
    assert scan.unreadable == (("07.npy", died), ("31.npy", died)) and len(scan.clouds) == 38


def test_the_bar_can_be_shown(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading shapes") as bar:
        read_folder(shapes, 32, progress=bar)
    assert "reading shapes" in capsys.readouterr().out


def test_sources_are_opened_by_name(shapes: Path, tmp_path: Path, cache: Path) -> None:
    assert open_source("procedural", 64, seed=5) == Endless(5)
    made = open_source("procedural:12", 64, seed=5)
    assert isinstance(made, Clouds) and made.points.shape == (12, 64, 3)
    assert len(list(cache.rglob("procedural-12x64-seed5-*.npz"))) == 1
    again = open_source("procedural:12", 64, seed=5)
    assert isinstance(again, Clouds) and again.fingerprint() == made.fingerprint()

    split = Clouds.pack(made.xyz(), split=torch.arange(12) % 4 == 0)
    split.write(tmp_path / "set.npz")
    sizes = {which: len(open_source(tmp_path / "set.npz", 9, split=which)) for which in ("train", "test", "all")}  # type: ignore[arg-type]
    assert sizes == {"train": 9, "test": 3, "all": 12}
    np.savez(tmp_path / "one.npz", points=np.random.default_rng(0).random((50, 3)))
    for spec, count in ((tmp_path / "one.npz", 1), (shapes / "a/two.npy", 1), (shapes, 4)):
        clouds = open_source(spec, 32)
        assert isinstance(clouds, Clouds) and clouds.points.shape == (count, 32, 3)


def test_skipping_warns(shapes: Path) -> None:
    (shapes / "bad.ply").write_text("x")
    with pytest.raises(ValueError, match="1 of 5 files"):
        open_source(shapes, 32)
    with pytest.warns(UserWarning, match="1 files of .* are left out; .* lists them"):
        open_source(shapes, 32, skip_bad=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("procedurl", r"no file, folder or source 'procedurl' \(did you mean procedural\?\); sources are: procedural,"),
        ("{}/shape", r"did you mean .*shapes\?"),
        ("procedural:0", "at least 1"),
        ("procedural:many", "no file, folder or source"),
        ("", "empty name"),
        ("{}/shapes/notes.md", r"files of this kind are not read; .*\.ply"),
    ],
)
def test_unknown_sources_say_what_there_is(shapes: Path, tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        open_source(spec.format(tmp_path), 32)


def test_what_a_source_lacks_is_said_with_its_name(shapes: Path) -> None:
    with pytest.raises(ValueError, match=r"shapes: .*no split"):
        open_source(shapes, 32, split="test")
    with pytest.raises(ValueError, match="neither features nor a test split"):
        open_source("procedural", 32, features=["rgb"])


def test_batches_come_from_stored_sets_or_from_the_endless_one(shapes: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = open_source(shapes, 32)
    batches = batches_from([stored, stored], 3, 16)
    assert isinstance(batches, Batches) and len(batches) == 2
    endless = batches_from([Endless(3)], 4, 16, epoch_size=40)
    assert isinstance(endless, ProceduralBatches) and len(endless) == 10
    with pytest.raises(ValueError, match="such as procedural:20000"):
        batches_from([stored, Endless()], 4, 16)
