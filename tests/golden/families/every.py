"""All families' cases, merged."""

from tests.golden.case import Case
from tests.golden.families import resnet

FAMILIES = (resnet,)
CASES: dict[str, Case] = {name: case for family in FAMILIES for name, case in family.CASES.items()}
GOLDEN = [name for name, case in CASES.items() if case.golden]
