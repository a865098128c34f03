"""Dual path networks."""

from flaxarch.convert import timm
from tests.golden.case import Case


def _dpn(name: str, *stage_sizes: int, **kwargs) -> Case:
    ends = {4 * 2**i: f"features.conv{i + 2}_{n}" for i, n in enumerate(stage_sizes)}
    return Case(f"timm.models:{name}", rules=timm.DPN, stages=ends, **kwargs)


CASES = {
    "dpn68": _dpn("dpn68", 3, 4, 12, 3, training=(2, 33, 33), golden=True, lax=True),
    "dpn92": _dpn("dpn92", 3, 4, 20, 3),
    "dpn98": _dpn("dpn98", 3, 6, 20, 3),
    "dpn131": _dpn("dpn131", 4, 8, 28, 3),
    "dpn107": _dpn("dpn107", 4, 8, 20, 3),
}
