"""Warns where a released checkpoint is asked in other words than those that it was trained on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from absl import logging

from lc_jax.models.difference import RECOVERED_FROM
from lc_jax.models.hub import RELEASED
from lc_jax.models.layout import read_json
from lc_jax.prompts import Prompt
from lc_jax.prompts.published import FILES

# SHA-256 (its beginning) of the published wordings, with single braces and without white space at the end.
_WORDINGS = {
    "paragraph": "639d0d24e9e7c257",
    "extract_answers": "491bfad5d1dba0c4",
    "forecast_probs": "c0e5a0436cc40ec8",
    "factuality": "45a50aa894042a9a",
}
# Names of a released checkpoint: on the hub, in the hub's cache, in ours, and of a folder downloaded by hand.
_NAME = re.compile(r"(?:models--)?(?:tatsu-lab(?:/|--))?linguistic-calibration-(.+?)(?:-wdiff)?(?:(?:@|--).*)?")


def name_of(path: str | Path) -> str:
    """Returns the key in hub.RELEASED of a checkpoint by its hub name, or of a folder that holds one; "" for others."""
    folder = Path(path)
    names = [str(path), folder.name, *([folder.parent.parent.name] if folder.parent.name == "snapshots" else [])]
    if (folder / "config.json").is_file():
        recovered = str(read_json(folder / "config.json").get(RECOVERED_FROM, ""))
        names.append(recovered if _NAME.fullmatch(recovered) else f"linguistic-calibration-{recovered}")
    matches = (match[1] for name in names if (match := _NAME.fullmatch(name)))
    return next((key for key in matches if key in RELEASED), "")


def warn_of_wording(path: str | Path, prompt: Prompt) -> bool:
    """Logs a warning, and returns True, where `path` is a released checkpoint that was trained on another wording."""
    key = name_of(path)
    if not key:
        return False
    question = RELEASED[key]
    words = hashlib.sha256(prompt.template.replace("\r\n", "\n").rstrip().encode()).hexdigest()
    if words.startswith(_WORDINGS[question]):
        return False
    logging.warning(
        "%s is the released %s, which was trained on the published wording %s, and is asked in other words here: its "
        "numbers will differ from the paper's. Give a folder with that file by --config.prompt_dir=FOLDER.",
        path,
        key,
        FILES[question],
    )
    return True
