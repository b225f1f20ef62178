"""Segments pictures: `hfseg predict BEST photo.jpg folder_of_photos --output_dir out`."""

import glob
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from hfseg.ahead import map_ahead
from hfseg.args import option, parse
from hfseg.errors import InputError
from hfseg.files import save_png
from hfseg.images import save_mask
from hfseg.logs import show_errors, start_log
from hfseg.malloc import keep_freed_memory
from hfseg.segmenter import Segmentation, Segmenter

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclass
class PredictArguments:
    """How pictures are segmented."""

    output_dir: str = option("Where <name>_mask.png and <name>_overlay.png go.", "out")
    batch_size: int = option("Images per forward pass.", 8)
    device: str | None = option("cpu, cuda, cuda:1, mps; unset: the fastest there is.")
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "Of the model; the latter two are faster on GPUs that have them, and move a few pixels at borders.", "float32"
    )
    revision: str | None = option("Branch, tag or commit of a model on the Hub.")
    trust_remote_code: bool = option("Let a model bring code of its own; those that hfseg trained need none.", False)


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv):
        parse(["--help"], (PredictArguments,))  # prints them, and ends
    first_option = next((i for i, token in enumerate(argv) if token.startswith("--")), len(argv))
    source, *inputs = argv[:first_option] or [""]
    if not inputs:
        raise InputError("Give a model and pictures: hfseg predict runs/pets/best photo.jpg folder --output_dir out.")
    args, _ = parse(argv[first_option:], (PredictArguments,))
    start_log()
    files = find_images(inputs)
    segmenter = Segmenter.from_pretrained(
        source,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
    )
    if segmenter.device.type == "cpu":
        keep_freed_memory()
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    def write(named: tuple[str, Segmentation]) -> None:
        name, result = named
        if result.mask.dtype == np.uint16:  # a palette has 256 colours
            save_png(output_dir / f"{name}_mask.png", Image.fromarray(result.mask))
        else:
            save_mask(result.mask, result.palette, output_dir / f"{name}_mask.png")
        save_png(output_dir / f"{name}_overlay.png", Image.fromarray(result.overlay()))

    results = zip(output_names(files), segmenter.stream(files, batch_size=args.batch_size))
    written = map_ahead(write, results, ahead=args.batch_size)
    for _ in tqdm(written, total=len(files), unit="image", dynamic_ncols=True):
        pass
    count = f"{len(files)} image{'s' if len(files) > 1 else ''}"
    print(f"{count} segmented: {output_dir}/<name>_mask.png (class ids) and <name>_overlay.png")
    return 0


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Files, folders and globs as a list of files.

    Raises:
        InputError: nothing there, or a folder without pictures.
    """
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(p) for p in glob.glob(text, recursive=True) if Path(p).is_file())
        if not matches:
            raise InputError(
                f"There is no picture at {text}. Give files, folders or globs of {', '.join(IMAGE_SUFFIXES)}."
            )
        found += matches
    return list(dict.fromkeys(found))


def output_names(files: Sequence[Path]) -> list[str]:
    """The files' stems; where two share one, with their suffix and folder as well."""
    stems = Counter(path.stem for path in files)
    longer = [p.stem if stems[p.stem] == 1 else f"{p.parent.name}_{p.stem}_{p.suffix[1:]}" for p in files]
    counts = Counter(longer)
    return [name if counts[name] == 1 else f"{i}_{name}" for i, name in enumerate(longer)]


if __name__ == "__main__":
    sys.exit(show_errors(main))
