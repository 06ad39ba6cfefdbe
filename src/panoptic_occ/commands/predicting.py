"""``predict``: panoptic maps of images without annotations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.progress import track

from panoptic_occ.commands.evaluating import of_trained_run
from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.files import atomic_path, names_a_drive, path_below, read_json, remove_leftovers, write_text
from panoptic_occ.data.coco.images import ENDINGS, OTHER_ENDINGS
from panoptic_occ.data.coco.json_file import name_in, whole_id
from panoptic_occ.data.coco.orientation import exif_orientation
from panoptic_occ.data.coco.panoptic_io import PanopticResultWriter, map_name, predictions_in
from panoptic_occ.evaluation.predictor import Predictor, pixels_of
from panoptic_occ.runs.plan import RunPlan
from panoptic_occ.visuals.overlay import overlay

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
SHOWN = 5  # names of images that are left out


@dataclass(frozen=True)
class Photograph:
    """An image to be segmented: its file, and the id and the name that its map gets."""

    path: Path
    image_id: int
    file_name: str


def predict(plan: RunPlan) -> Path:
    """Segments ``input``, or the images that the COCO JSON ``images`` lists, into ``output``: panoptic.json,
    panoptic/*.png and overlays/*.png; returns the folder.

    panoptic.json lists the maps beside it, also after an interruption; the same command then begins anew.  Raises
    ConfigError for a missing setting and a folder in use (see ``find_results``), and in the end one DataError for the
    images that cannot be read.
    """
    photographs, output = find_photographs(plan), Path(_needed(plan, "output"))
    unfinished = output / UNFINISHED
    earlier = find_results(output, photographs, plan.force or unfinished.exists())
    predictor = Predictor.of(of_trained_run(plan))
    if unfinished.exists():
        for half_written in ("panoptic.json", "panoptic/**/*", "overlays/**/*"):
            remove_leftovers(output, half_written)
    writer = PanopticResultWriter(output / "panoptic", output / "panoptic.json", predictor.categories)
    bad: list[str] = []
    done = 0
    try:
        for photograph in track(photographs, description="predicting"):
            try:
                pixels = pixels_of(photograph.path, predictor.orientation)
            except DataError as error:
                bad.append(str(error))
                continue
            prediction = predictor(pixels)
            if not done:
                write_text(unfinished, "predict is at work here, or was interrupted; the same command begins anew\n")
            while earlier:
                earlier.pop(0).unlink(missing_ok=True)
            # both appear together: the overlay tells a map of predict from those of other commands
            with atomic_path(output / "overlays" / map_name(photograph.file_name)) as temporary:
                Image.fromarray(overlay(pixels, prediction, predictor.categories)).save(temporary, "PNG")
                writer.write(photograph.image_id, photograph.file_name, prediction)
            done += 1
    finally:
        if done:
            writer.close()
    unfinished.unlink(missing_ok=True)
    log.info("%d maps and overlays are in %s", done, output)
    if predictor.orientation == "pixels":
        _tell_unturned(photographs)
    if bad:
        rest = f"the maps of the other {done} are in {output}" if done else "nothing was written"
        raise DataError(f"{len(bad)} of {len(photographs)} images cannot be read; {rest}:\n  " + "\n  ".join(bad))
    return output


def _tell_unturned(photographs: Sequence[Photograph]) -> None:
    """Logs how many images are shown turned by viewers, which the run does not follow."""
    unturned = [photograph.path for photograph in photographs if exif_orientation(photograph.path)[0] != 1]
    if unturned:
        log.warning(
            "%s: has an EXIF orientation, as have %d other images; they were read as their pixels are stored, as the "
            "training images of this run were (data.source.orientation=exif turns them)",
            unturned[0],
            len(unturned) - 1,
        )


def find_photographs(plan: RunPlan) -> list[Photograph]:
    """The images of ``input`` by name, numbered from 1, or those of the COCO JSON ``images`` under their own ids."""
    listing = plan.options["images"]
    if listing is None:
        files = find_images(Path(_needed(plan, "input")))
        return [Photograph(file, number, file.name) for number, file in enumerate(files, start=1)]
    return listed_images(Path(listing), None if plan.options["input"] is None else Path(plan.options["input"]))


def listed_images(listing: Path, folder: Path | None) -> list[Photograph]:
    """The images that a COCO JSON (of instances, of a panoptic annotation, of images alone) lists, in its order.

    They lie in ``folder``, which is by default where that of the JSON's split would be: beside the JSON, or, by the
    official layout, in ``../<split>`` or ``../images/<split>``.  DataError for entries without id or name, for names
    that lead out of the folder and for images that are in none of these places.
    """
    content = read_json(listing)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{listing}: has no list 'images'; images= takes a COCO JSON, input= an image or a folder")
    split = listing.stem.rpartition("_")[2]
    nearby = (listing.parent, listing.parent.parent / split, listing.parent.parent / "images" / split)
    places = nearby if folder is None else (folder,)
    photographs: dict[str, Photograph] = {}
    of_id: dict[int, Photograph] = {}
    for number, entry in enumerate(entries):
        name, image_id = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        with suppress(ValueError):
            image_id = whole_id(image_id)
        if not isinstance(name, str) or type(image_id) is not int:
            raise DataError(
                f"{listing}: images[{number}] is {entry!r}; a file_name and a whole number as id are needed"
            )
        for place in places:
            name = name_in(place, name)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{listing}: images[{number}] has the file_name {name!r}, which leads out of its folder")
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None and names_a_drive(Path(name)):
            raise DataError(
                f"{listing}: images[{number}] has the file_name {name!r}, an absolute path of Windows; write names "
                "relative to the folder of the images"
            )
        if path is None:
            tried = ", ".join(map(str, places))
            raise DataError(f"{listing}: the image {name!r} is not in {tried}; input= names the folder of the images")
        other = photographs.setdefault(Path(name).with_suffix("").as_posix(), Photograph(path, image_id, name))
        if other.image_id != image_id or other.file_name != name:
            raise DataError(f"{listing}: the images {other.file_name!r} and {name!r} would get one map; rename one")
        if (other := of_id.setdefault(image_id, other)).file_name != name:
            raise DataError(
                f"{listing}: the images {other.file_name!r} and {name!r} have one id, {image_id}; give each its own"
            )
    return list(photographs.values())


def _needed(plan: RunPlan, key: str) -> str:
    value = plan.options[key]
    if value is None:
        raise ConfigError(f"'{key}' needs a value; add {key}=... to the command (see --help)")
    return str(value)


def find_results(output: Path, photographs: Sequence[Photograph], force: bool) -> list[Path]:
    """What an earlier predict left in ``output`` and ``force`` has replaced by the maps of ``photographs``.

    Raises ConfigError when there is something without ``force``, and, in any case, for a file in the way that is not
    known to be a result of predict: a map of it has an overlay.
    """
    names = [map_name(photograph.file_name) for photograph in photographs]
    wanted = [path_below(output / kind, name, "an image") for name in names for kind in ("panoptic", "overlays")]
    maps = predictions_in(output / "panoptic")
    pairs = [(path, output / "overlays" / path.relative_to(output / "panoptic")) for path in maps]
    earlier = [path for pair in pairs if pair[1].exists() for path in pair]
    listed = output / "panoptic.json"
    if earlier:
        earlier.insert(0, listed)  # removed first: no list is longer than its maps
    known, inputs = set(earlier), {photograph.path.resolve() for photograph in photographs}
    for path in (listed, *maps, *earlier, *wanted):
        if path.exists() and (path not in known or path.resolve() in inputs):
            raise ConfigError(
                f"{path}: is in the way, and is not known to be a result of predict that may be replaced; choose "
                "another output=, or move it away"
            )
    if earlier and not force:
        raise ConfigError(
            f"{output}: holds {len(earlier) // 2} maps of an earlier predict; choose another output=, or add "
            "force=true to replace them"
        )
    return earlier


def find_images(path: Path) -> list[Path]:
    """The image itself, or all images of a folder by name; DataError when there is none, or two share a name.

    What macOS puts beside the files of a foreign disk (``._name``) is no image.  The log names images of kinds that are
    not read.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        state = "is no file" if path.exists() else "does not exist"
        raise DataError(f"{path}: input= {state}; give an image or a folder of images")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("._"))
    files = [entry for entry in entries if entry.suffix.lower() in ENDINGS]
    if others := [entry.name for entry in entries if entry.suffix.lower() in OTHER_ENDINGS]:
        shown = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        log.warning(
            "%s: %d images are left out (%s); allowed endings: %s",
            *(path, len(others), shown, ", ".join(ENDINGS)),
        )
    if not files:
        raise DataError(f"{path}: no image in this folder; allowed endings: {', '.join(ENDINGS)}")
    stems: dict[str, Path] = {}
    for file in files:
        if file.stem in stems:
            raise DataError(f"{file}: its result would overwrite that of {stems[file.stem]}; rename one of them")
        stems[file.stem] = file
    return files
