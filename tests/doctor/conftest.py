import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))  # bagel_cases

from small_checkpoint import compiled_once, small_checkpoint  # noqa: F401
