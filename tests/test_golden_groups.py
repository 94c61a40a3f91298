"""Every recorded group is compared with by some test."""

import json
import re
from pathlib import Path

import golden_vectors

TESTS = Path(__file__).parent


def test_no_group_is_forgotten():
    groups = {case["group"] for case in json.loads((golden_vectors.folder() / "vectors.json").read_text())["cases"]}
    named = re.compile(r'(?:golden\.each|golden\.cases|matches)\(\s*"(\w+)"')
    asked = {group for path in TESTS.rglob("test_*.py") for group in named.findall(path.read_text())}
    assert groups <= asked, f"no test asks for {sorted(groups - asked)}"
