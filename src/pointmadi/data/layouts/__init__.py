"""Folders as others publish them: recognised by their files, listed, and compared with the official counts."""

from pathlib import Path

from pointmadi.data.layouts.layout import Layout
from pointmadi.data.layouts.modelnet import MODELNET
from pointmadi.data.layouts.rooms import ROOMS
from pointmadi.data.layouts.scanobjectnn import SCANOBJECTNN
from pointmadi.data.layouts.shapenet import SHAPENET
from pointmadi.data.layouts.shapenetpart import SHAPENETPART
from pointmadi.data.layouts.sweethome3d import SWEETHOME3D

__all__ = ["LAYOUTS", "Layout", "detect"]

# Where one folder can be read in several ways, the first is the usual one.
LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (*SHAPENET, *MODELNET, *SCANOBJECTNN, *SHAPENETPART, *ROOMS, SWEETHOME3D)
}


def detect(root: Path) -> Layout | None:
    """Recognise the layout of a folder by its files: the usual one where there are several; None for any other."""
    return next((layout for layout in LAYOUTS.values() if layout.detect(root)), None)
