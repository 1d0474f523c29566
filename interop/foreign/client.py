"""Calls `Suite` and `Second`, as `homa-interop thrift` does: the same cases by the same names.

Prints a line for each case, and exits with status 0 if all of them passed.
"""

import argparse
import json
import sys
import threading
import time

from cases import CASES
from common import LIBRARIES, address, library
from context import Context


def run(case, context, limit):
    """Why the case failed, if it did."""
    failure = []

    def body():
        try:
            CASES[case](context)
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else repr(error)
            failure.append(text[:300])
        finally:
            context.close()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        return f"it did not end within {limit} s"
    return failure[0] if failure else None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", choices=LIBRARIES, required=True)
    parser.add_argument(
        "--uri",
        required=True,
        help="tcp+framed://HOST:PORT, with ?protocol=compact if need be",
    )
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--calls", type=int, default=50, help="of a case that makes many")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that a case may take")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file")
    arguments = parser.parse_args()
    where = address(arguments.uri)
    used = library(arguments.library)
    results = []
    for case in arguments.case or CASES:
        began = time.monotonic()
        why = run(case, Context(used, where, arguments.calls), arguments.timeout)
        seconds = round(time.monotonic() - began, 6)
        verdict = "passed" if why is None else f"FAILED: {why}"
        print(f"{case:28} {seconds:8.3f} s  {verdict}", flush=True)
        results.append({"name": case, "passed": why is None, "seconds": seconds, "why": why})
    failed = sum(not result["passed"] for result in results)
    if arguments.json:
        summary = {"uri": arguments.uri, "passed": failed == 0, "cases": results}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(summary, file)
    verdict = f"FAILED: {failed} of {len(results)} cases" if failed else "passed: all"
    print(verdict, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
