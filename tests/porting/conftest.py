import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))  # bagel_cases
sys.path.insert(0, str(Path(__file__).parent))  # elsewhere, torch_bagel
from small_checkpoint import small_checkpoint  # noqa: F401
