"""JSON that users wrote, read strictly: no key twice, no NaN, no nesting without end."""

import json
from collections.abc import Sequence
from typing import Any

from hfseg.errors import InputError


def parse_json(text: str, source: object) -> Any:
    """What a JSON text holds.

    Args:
        text: as a user wrote it.
        source: where it stands, for the message.

    Raises:
        InputError: no JSON; a key that stands twice, of which one would be lost; NaN or Infinity, which are no JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_to_dict, parse_constant=_refuse_constant)
    except RecursionError:
        raise InputError(f"{source} is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:  # also for a number of thousands of digits
        raise InputError(f"{source} is not valid JSON: {error}.") from None


def _to_dict(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key!r} stands twice")
        table[key] = value
    return table


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
