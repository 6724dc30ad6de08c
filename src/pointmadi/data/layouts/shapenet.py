"""ShapeNet-55 as Point-BERT published it, and Objaverse."""

import gzip
import json
from pathlib import Path

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.layouts.layout import Layout, alike, home, listed, missing, names, read_lists
from pointmadi.data.layouts.reading import reading
from pointmadi.data.listing import Entry, Listing

LISTS = (("ShapeNet-55/train.txt", TRAIN), ("ShapeNet-55/test.txt", TEST))
ANNOTATIONS = ("lvis-annotations.json", "lvis-annotations.json.gz")
LARGEST_JSON = 1 << 28  # bytes; the published annotations are 3 MB

SYNSETS = {
    "02691156": "airplane", "02747177": "trash bin", "02773838": "bag", "02801938": "basket", "02808440": "bathtub",
    "02818832": "bed", "02828884": "bench", "02843684": "birdhouse", "02871439": "bookshelf", "02876657": "bottle",
    "02880940": "bowl", "02924116": "bus", "02933112": "cabinet", "02942699": "camera", "02946921": "can",
    "02954340": "cap", "02958343": "car", "02992529": "cellphone", "03001627": "chair", "03046257": "clock",
    "03085013": "keyboard", "03207941": "dishwasher", "03211117": "display", "03261776": "earphone",
    "03325088": "faucet", "03337140": "file cabinet", "03467517": "guitar", "03513137": "helmet", "03593526": "jar",
    "03624134": "knife", "03636649": "lamp", "03642806": "laptop", "03691459": "loudspeaker", "03710193": "mailbox",
    "03759954": "microphone", "03761084": "microwave", "03790512": "motorbike", "03797390": "mug",
    "03928116": "piano", "03938244": "pillow", "03948459": "pistol", "03991062": "flowerpot", "04004475": "printer",
    "04074963": "remote", "04090263": "rifle", "04099429": "rocket", "04225987": "skateboard", "04256520": "sofa",
    "04330267": "stove", "04379243": "table", "04401088": "telephone", "04460130": "tower", "04468005": "train",
    "04530566": "watercraft", "04554684": "washer",
}  # fmt: skip


def _find_shapenet(root: Path) -> Path | None:
    return home(root, ("shapenet_pc", "ShapeNet-55"), ("ShapeNet55-34",))


def _split(folder: Path) -> Listing:
    """List ShapeNet-55 by its two lists; the class is in the name: 02691156-1a04….npy."""
    lists, lacking = read_lists(folder, LISTS)
    found, problems = listed(lists, set(names(folder / "shapenet_pc", ".npy")), lambda name: name)
    index = {synset: label for label, synset in enumerate(SYNSETS)}
    shapes = folder / "shapenet_pc"
    entries = tuple(
        Entry(file.removesuffix(".npy"), shapes / file, label=index.get(file.partition("-")[0], -1), split=split)
        for _, file, split, _ in found
    )
    return Listing(folder, entries, classes=tuple(SYNSETS.values()), has_split=True, problems=lacking + problems)


def _merged(folder: Path) -> Listing:
    """List ShapeNet-55 with the test shapes among the training shapes, as Point-MaDi and PCP-MAE pre-train."""
    split = _split(folder)
    entries = tuple(Entry(e.name, e.path, label=e.label) for e in split.entries)
    return Listing(folder, entries, classes=split.classes, problems=split.problems)


def _find_objaverse(root: Path) -> Path | None:
    folder = home(root, ("glbs",), ("hf-objaverse-v1",))
    return folder if folder and alike(folder / "glbs", r"\d{3}-\d{3}") else None


def _objaverse(folder: Path) -> Listing:
    """List glbs/000-000/*.glb; classes are those of the LVIS annotations, where they are there."""
    annotated = next((folder / name for name in ANNOTATIONS if (folder / name).exists()), None)
    kinds = _annotations(annotated) if annotated else {}
    label = {uid: place for place, kind in enumerate(sorted(kinds)) for uid in kinds[kind]}
    glbs = folder / "glbs"
    entries = tuple(
        Entry(file.removesuffix(".glb"), glbs / part / file, label=label.get(file.removesuffix(".glb"), -1), group=part)
        for part in names(glbs)
        for file in names(glbs / part, ".glb")
    )
    gone = label.keys() - {entry.name for entry in entries}
    problems = missing(sorted(gone), annotated.name) if annotated else (f"missing: {ANNOTATIONS[1]}",)
    return Listing(folder, entries, classes=tuple(sorted(kinds)), problems=problems)


def _annotations(path: Path) -> dict[str, list[str]]:
    """Read which objects each category of LVIS has."""
    with reading(path):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(LARGEST_JSON + 1)
        if len(text) > LARGEST_JSON:
            raise ValueError(f"larger than {LARGEST_JSON} bytes")
        kinds = json.loads(text)
        if not isinstance(kinds, dict) or not all(isinstance(uids, list) for uids in kinds.values()):
            raise ValueError("expected lists of objects by category")
        return {kind: [str(uid) for uid in uids] for kind, uids in kinds.items()}


SHAPENET_TERMS = "ShapeNet terms of use (registration; research and education, not commercial)"
SHAPENET_TREE = "shapenet_pc/*.npy, ShapeNet-55/train.txt, ShapeNet-55/test.txt"
SHAPENET_SOURCE = "DATASET.md of github.com/Julie-tang00/Point-BERT; the models themselves: shapenet.org"

SHAPENET = (
    Layout(
        "shapenet55", "ShapeNet-55: 8,192 points of each model", SHAPENET_SOURCE, SHAPENET_TERMS, "5.2 GB",
        {"train": 41_952, "test": 10_518, "classes": 55}, SHAPENET_TREE, _find_shapenet, _split,
    ),
    Layout(
        "shapenet55-merged", "ShapeNet-55, train and test merged for pre-training", SHAPENET_SOURCE, SHAPENET_TERMS,
        "5.2 GB", {"shapes": 52_470, "classes": 55}, SHAPENET_TREE, _find_shapenet, _merged,
    ),
    Layout(
        "objaverse", "Objaverse 1.0: meshes from the web", "huggingface.co/datasets/allenai/objaverse",
        "ODC-By 1.0; each object has a Creative Commons licence of its own", "several TB (any part of it will do)",
        {"shapes": 798_759, "classes": 1_156}, "glbs/000-000/*.glb, perhaps lvis-annotations.json.gz",
        _find_objaverse, _objaverse,
    ),
)  # fmt: skip
