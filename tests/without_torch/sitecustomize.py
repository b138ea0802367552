"""On PYTHONPATH it hides torch, which users' environments do not have and which takes seconds to import."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]
