"""What `hfseg check` reads, and what it looks for: each kind of issue, and what to do about it."""

from dataclasses import dataclass
from typing import Any

KINDS = {
    # of the layout
    "no_mask": "An image without a mask: training refuses the data set. Add the mask, or remove the image.",
    "no_image": "A mask without an image. Add the image, or remove the mask.",
    "same_name": "Two files that one partner could belong to. Remove or rename one.",
    "not_on_disk": "Listed, but not on disk.",
    "in_no_split": "In no split: training never sees it. Move it into a split, or remove it.",
    "not_read": "A picture in a format that is not read. Save it as JPEG or PNG.",
    # of one file
    "empty": "A file of zero bytes. Replace it.",
    "truncated": "Cut short: a copy or download that broke off. Replace it.",
    "unreadable": "Can't be read as a picture. Replace it, or leave it out.",
    "too_large": "More pixels than are read. Cut it into tiles.",
    "wrong_extension": "The name says another format than the bytes. Rename it: other tools may refuse it.",
    "exif_rotation": "An EXIF orientation turns the image, and not its mask. Save the image upright, without EXIF.",
    "16_bit": "More than 8 bits a channel: brought to 8 bits by a fixed scale.",
    "cmyk": "Colours for print: converted to RGB without a colour profile. Save it as RGB.",
    "alpha": "Has an alpha channel, which is dropped: hidden colours show. Save it without alpha.",
    # of a pair
    "size_differs": "The mask has another size than its image. Save it at the image's own size.",
    # of one mask
    "values_outside_classes": "Mask values of no class. Correct the mask, or give ignore_values or label_map.",
    "all_ignored": "A mask without a class: nothing is learned from it.",
    "single_class": "A mask of one class alone: right for a picture of nothing else, or an empty annotation.",
    "lossy_mask": "A mask saved with loss (JPEG): values change along edges. Save it as PNG from the source.",
    "anti_aliased": "Values between those on both sides of an edge: a mask that was smoothed or resized. Use nearest.",
    # of the whole set
    "duplicate": "Nearly the same image twice in one split, or outside the splits: counts double.",
    "duplicate_across_splits": "Nearly the same image in two splits: the score is of trained images. Remove one.",
}

# Those that end a training or falsify its result; the page draws their examples first.
WORST = (
    *("duplicate_across_splits", "values_outside_classes", "size_differs", "exif_rotation", "anti_aliased"),
    *("lossy_mask", "all_ignored", "truncated", "unreadable", "empty", "too_large", "no_mask", "no_image"),
)


@dataclass(frozen=True)
class Issue:
    """One finding.

    Args:
        file: path relative to the data set's folder, or a row's name.
        kind: a key of `KINDS`.
        detail: one line, what is so in this file.
    """

    file: str
    kind: str
    detail: str

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


@dataclass(frozen=True)
class Sample:
    """A pair, or one file of it.

    Args:
        name: of the pair, for messages: the image's path below the data set's folder, or the mask's.
        image, mask: what `hfseg.images` reads: a path, or {"bytes", "path"}; None where there is none.
        split: None where it is in no split.
        mask_name: as name, of the mask.
        labelled: False where the masks are known to be placeholders.
    """

    name: str
    image: Any = None
    mask: Any = None
    split: str | None = None
    mask_name: str = ""
    labelled: bool = True
