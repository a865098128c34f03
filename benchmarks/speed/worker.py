"""One contender at one case, in a process of its own: started, and asked for rounds, by `run`.

Lines of standard input are numbers of steps; each is answered with the seconds that they took. Answers are
lines of JSON behind a mark, since libraries write to standard output too.
"""

import contextlib
import importlib
import json
import resource
import sys
import time
from typing import Any

from benchmarks.speed.cases import Case

MARK = "speed: "


def main() -> None:
    """Prepare, say so, and do rounds until the input ends."""
    spec = json.loads(sys.argv[1])
    case = Case(**spec["case"])
    contender = importlib.import_module(f"benchmarks.speed.contenders.of_{spec['contender']}")
    prepared = contender.prepare(case, spec["path"])
    since_start = time.time() - spec["started"]
    _say(
        compile_seconds=prepared.compile_seconds,
        first_seconds=since_start,
        flops=prepared.flops,
        device=prepared.device,
    )
    for line in sys.stdin:
        start = time.perf_counter()
        prepared.run(int(line))
        seconds = time.perf_counter() - start
        peak = prepared.peak_bytes()
        if peak is None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _say(seconds=seconds, peak_bytes=peak)


def _say(**answer: Any) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
