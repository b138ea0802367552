"""Reads the recorded JSON files back: arrays, scalars, tuples and sets."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def decode(value: Any) -> Any:
    """JSON as recorded -> Python and numpy."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("__array__"):
        dtype = object if value["dtype"] == "object" else value["dtype"]
        return np.array(value["data"], dtype=dtype).reshape(value["shape"])
    if value.get("__scalar__"):
        return np.dtype(value["dtype"]).type(value["value"])
    for mark, kind in (("__tuple__", tuple), ("__set__", set)):
        if mark in value:
            return kind(decode(v) for v in value[mark])
    return ... if value.get("__ellipsis__") else {k: decode(v) for k, v in value.items()}


def load(path: Path) -> Any:
    """One recorded file."""
    return decode(json.loads(path.read_text()))
