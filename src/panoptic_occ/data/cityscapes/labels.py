"""The labels of Cityscapes (Cordts et al., CVPR 2016): 19 classes that count, and what is void."""

from __future__ import annotations

from panoptic_occ.structures.categories import Categories, Category

CATEGORIES = Categories(
    (
        Category(24, "person", True, (220, 20, 60)),
        Category(25, "rider", True, (255, 0, 0)),
        Category(26, "car", True, (0, 0, 142)),
        Category(27, "truck", True, (0, 0, 70)),
        Category(28, "bus", True, (0, 60, 100)),
        Category(31, "train", True, (0, 80, 100)),
        Category(32, "motorcycle", True, (0, 0, 230)),
        Category(33, "bicycle", True, (119, 11, 32)),
        Category(7, "road", False, (128, 64, 128)),
        Category(8, "sidewalk", False, (244, 35, 232)),
        Category(11, "building", False, (70, 70, 70)),
        Category(12, "wall", False, (102, 102, 156)),
        Category(13, "fence", False, (190, 153, 153)),
        Category(17, "pole", False, (153, 153, 153)),
        Category(19, "traffic light", False, (250, 170, 30)),
        Category(20, "traffic sign", False, (220, 220, 0)),
        Category(21, "vegetation", False, (107, 142, 35)),
        Category(22, "terrain", False, (152, 251, 152)),
        Category(23, "sky", False, (70, 130, 180)),
    )
)
"""The classes of the evaluation, with their official ids and colours."""

NOT_PAINTED = -1
VOID = {
    "unlabeled": 0, "ego vehicle": 1, "rectification border": 2, "out of roi": 3, "static": 4, "dynamic": 5,
    "ground": 6, "parking": 9, "rail track": 10, "guard rail": 14, "bridge": 15, "tunnel": 16, "polegroup": 18,
    "caravan": 29, "trailer": 30, "license plate": NOT_PAINTED,
}  # fmt: skip
"""Labels that the evaluation ignores; a licence plate leaves the pixels to what is behind it."""

IDS = {c.name: c.id for c in CATEGORIES.items} | VOID
THINGS = {c.id for c in CATEGORIES.items if c.isthing}
COUNTED = THINGS | {VOID["caravan"], VOID["trailer"]}
"""Labels of which every object has a number of its own in ``*_instanceIds.png``: 1000 x label + number."""

GROUP = "group"


def label_of(name: str) -> tuple[int, bool] | None:
    """The label id of an object, and whether it is a group (``cargroup``: nobody can tell the cars apart); None for a
    name that Cityscapes does not have."""
    if name in IDS:
        return IDS[name], False
    single = name.removesuffix(GROUP)
    return (IDS[single], True) if single != name and single in IDS else None
