"""What the pixels mean: class names, their colours, and the table from a mask's raw values to class ids.

The letters used for shapes everywhere: B images of a batch, C classes, H height, W width. A mask is a map of class
ids 0 .. C-1; `IGNORE_INDEX` marks the pixels that neither loss nor metric may see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from hfseg.errors import InputError

IGNORE_INDEX = 255
NUM_RAW_VALUES = 65536  # of a 16-bit mask

Color = tuple[int, int, int]

# Okabe & Ito, "Color Universal Design" (2008): eight colours that colour-blind readers can tell apart. Grey comes
# first because class 0 is the background in most data sets.
OKABE_ITO: tuple[Color, ...] = (
    (120, 120, 120),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def build_palette(num_labels: int) -> tuple[Color, ...]:
    """`num_labels` distinct RGB colours in 0..255: Okabe-Ito first, then hues a golden angle apart."""
    import colorsys

    colors = list(OKABE_ITO[:num_labels])
    for i in range(num_labels - len(colors)):
        hue, value, saturation = i * 0.61803399 % 1, (0.95, 0.7, 0.5)[i % 3], (0.55, 0.9)[i // 3 % 2]
        r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
        colors.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(colors)


@dataclass(frozen=True)
class Labels:
    """The classes of a data set and how its mask files say them.

    Args:
        names: class names; their position is the class id. 1 to 255 of them.
        palette: one RGB colour a class; drawn from `build_palette` when empty.
        ids: raw mask value -> class id or `IGNORE_INDEX`. None: raw values are class ids, and 255 is ignored.
        colors: for masks saved as RGB pictures, colour -> class id or `IGNORE_INDEX`.

    Raises:
        InputError: no class, more than 255, doubled names, a palette of another length, or a table that maps to no
            class or from no mask value.
    """

    names: Sequence[str]
    palette: Sequence[Color] = ()
    ids: Mapping[int, int] | None = None
    colors: Mapping[Color, int] | None = field(default=None)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE_INDEX:
            raise InputError(f"{len(self.names)} classes given; 1 to {IGNORE_INDEX} are possible (255 means ignored).")
        if doubled := sorted({n for n in self.names if list(self.names).count(n) > 1}):
            raise InputError(f"Class names must differ, but {doubled} stand more than once.")
        if self.palette and len(self.palette) != len(self.names):
            raise InputError(f"The palette has {len(self.palette)} colours for {len(self.names)} classes.")
        for table in (self.ids, self.colors):
            if bad := [v for v in (table or {}).values() if not (0 <= v < len(self.names) or v == IGNORE_INDEX)]:
                raise InputError(
                    f"A label table maps to {sorted(set(bad))}; allowed are the class ids 0 to "
                    f"{len(self.names) - 1} and {IGNORE_INDEX} for ignored pixels."
                )
        if bad := [raw for raw in self.ids or {} if not 0 <= raw < NUM_RAW_VALUES]:
            raise InputError(f"A label table has the mask values {sorted(bad)}; allowed are 0 to {NUM_RAW_VALUES - 1}.")
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "palette", tuple(map(tuple, self.palette)) or build_palette(len(self.names)))

    @property
    def num_labels(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def lookup(self) -> np.ndarray:
        """(NUM_RAW_VALUES,) int16: class id, 255, or -1 for a raw value that is not allowed."""
        table = np.full(NUM_RAW_VALUES, -1, np.int16)
        if self.ids is None:
            table[: self.num_labels] = np.arange(self.num_labels)
            table[IGNORE_INDEX] = IGNORE_INDEX
        else:
            for raw, class_id in self.ids.items():
                table[raw] = class_id
        return table

    def encode(self, raw: np.ndarray, source: str = "mask") -> np.ndarray:
        """Raw mask values to class ids.

        Args:
            raw: (H, W) integers, or (H, W, 3) uint8 colours when `colors` is set.
            source: the file's name, for the error message.

        Returns:
            (H, W) uint8, class id or 255.

        Raises:
            InputError: a value or colour outside the table; names the file and the values.
        """
        if raw.ndim == 3:
            return self._encode_colors(raw, source)
        # In half the time of an index: no number of so few bits lies outside the table.
        small = raw.dtype in (np.uint8, np.uint16)
        mask = self.lookup.take(raw, mode="clip") if small else self._lookup_wide(raw)
        if mask.min(initial=0) < 0:
            bad = [int(v) for v in np.unique(raw[mask < 0])]
            allowed = sorted(self.ids) if self.ids is not None else f"0 to {self.num_labels - 1} and 255 (ignored)"
            raise InputError(
                f"{source}: mask values {_shorten(bad)} belong to no class; allowed are {_shorten(allowed)}. "
                "Correct the mask, or give ignore_values or label_map."
            )
        return mask.astype(np.uint8)

    def _lookup_wide(self, raw: np.ndarray) -> np.ndarray:
        inside = (raw >= 0) & (raw < len(self.lookup))
        return np.where(inside, self.lookup[np.where(inside, raw, 0)], -1)

    def _encode_colors(self, raw: np.ndarray, source: str) -> np.ndarray:
        if not self.colors:
            raise InputError(
                f"{source}: the mask is an RGB picture, and there is no colour table. Give `colors` "
                "(class name -> [r, g, b]), or save masks as class ids."
            )
        key = raw.astype(np.int32) @ np.array([65536, 256, 1], np.int32)  # (H, W) one number a colour
        values, inverse = np.unique(key, return_inverse=True)
        table = {r * 65536 + g * 256 + b: class_id for (r, g, b), class_id in self.colors.items()}
        if bad := [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in values if int(v) not in table]:
            raise InputError(
                f"{source}: colours {_shorten(bad)} are in no class; allowed are {_shorten(sorted(self.colors))}. "
                "Anti-aliased or JPEG masks cause this: save them as PNG without smoothing."
            )
        return np.array([table[int(v)] for v in values], np.uint8)[inverse].reshape(key.shape)

    def ignoring(self, *class_ids: int) -> "Labels":
        """The same classes with the pixels of these class ids turned into `IGNORE_INDEX` (their names stay)."""
        ids = dict(self.ids) if self.ids is not None else {**{i: i for i in range(self.num_labels)}, 255: 255}
        colors = self.colors and {color: IGNORE_INDEX if v in class_ids else v for color, v in self.colors.items()}
        ids = {raw: IGNORE_INDEX if v in class_ids else v for raw, v in ids.items()}
        return replace(self, ids=ids, colors=colors)


def class_names(config: Any) -> list[str]:
    """The classes of a transformers model, in the order of their ids, from its config."""
    return [config.id2label[i] for i in range(config.num_labels)]


def _shorten(values: object, limit: int = 8) -> str:
    if isinstance(values, list) and len(values) > limit:
        return f"[{', '.join(map(str, values[:limit]))}, ... {len(values)} in all]"
    return str(values)
