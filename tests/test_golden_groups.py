"""Every recorded case is compared with by some test."""

import re
from pathlib import Path

import golden_vectors
import pytest

TESTS = Path(__file__).parent
ASKING = {path for path in TESTS.rglob("test_*.py") if re.search(r"^import golden_vectors", path.read_text(), re.MULTILINE)}


@pytest.mark.golden
def test_no_case_is_forgotten(request):
    """Of the tests that were collected, in both precisions; of no use where only some files were."""
    items = request.session.items
    if not ASKING <= {item.path for item in items}:
        pytest.skip("not all tests that compare with recorded cases were collected")
    given = [item.callspec.params for item in items if hasattr(item, "callspec")]
    asked = [(values["case"], values["bits"]) for values in given if isinstance(values.get("case"), golden_vectors.Case)]
    tried = {(case.group, case.name, bits) for case, bits in asked}
    recorded = {(case.group, case.name, bits) for case in golden_vectors.read() for bits in (32, 64)}
    assert recorded and tried == recorded, f"no test asks for {sorted(recorded - tried)}"
