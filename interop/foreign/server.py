"""Serves `Suite` and `Second`, as `homa-interop serve --thrift` does."""

import argparse
import json
import logging
import os
import sys
import threading
import time

from common import LIBRARIES, address, content, library

# Longer than any message, so that replies can be too long.
MAX_MADE = 10_000_000

# Longest that a handler waits, in milliseconds.
MAX_WAIT = 60_000


class Ledger:
    """Which numbered calls ran, and how often."""

    def __init__(self):
        self.lock = threading.Lock()
        self.methods = {}
        self.sessions = {}
        self.numbered = 0
        self.again = {}

    def ran(self, method, call):
        with self.lock:
            self.methods[method] = self.methods.get(method, 0) + 1
            self.numbered += 1
            seen = self.sessions.setdefault(call.session, set())
            if call.number in seen:
                self.again[call.session] = self.again.get(call.session, 0) + 1
            seen.add(call.number)

    def of(self, session):
        with self.lock:
            return len(self.sessions.get(session, ())), self.again.get(session, 0)

    def counts(self):
        with self.lock:
            return {
                "runs": self.numbered,
                "numbered": self.numbered,
                "ran_again": sum(self.again.values()),
                "methods": self.methods,
            }


class Handler:
    """What both services have."""

    def __init__(self, used, ledger):
        self.used = used
        self.types = used.types
        self.ledger = ledger

    def ping(self):
        pass

    def name(self):
        return type(self).__name__

    def end(self, how):
        ending, types = self.types.Ending, self.types
        if how == ending.RETURN:
            return
        if how == ending.REFUSED:
            raise types.Refused(code=7, why="as asked")
        if how == ending.MISSING:
            raise types.Missing(key="a key", near=types.Point(x=1.5, y=-2.5))
        if how == ending.PANIC:
            raise RuntimeError("as asked")
        # The only one that libraries pass on by its text.
        raise self.used.ApplicationError(0, "undeclared, as asked")


class Suite(Handler):
    def __getattr__(self, name):
        if not name.startswith("echo_"):
            raise AttributeError(name)
        return lambda value: value

    def join(self, third, first, second):
        return f"{first}, {second}, {third}"

    def make(self, size):
        return content(min(max(size, 0), MAX_MADE))

    def measure(self, data):
        return [len(data), sum(data)]

    def finish(self, how):
        self.end(how)
        return "returned"

    def finish_void(self, how):
        self.end(how)

    def wait(self, milliseconds, text):
        time.sleep(min(max(milliseconds, 0), MAX_WAIT) / 1000)
        return text

    def numbered(self, id, payload):
        self.ledger.ran("Suite:numbered", id)
        return id.number

    def note(self, id, fails):
        self.ledger.ran("Suite:note", id)
        if fails:
            self.end(self.types.Ending.UNDECLARED)

    def runs(self, session):
        calls, again = self.ledger.of(session)
        return self.types.Runs(calls=calls, again=again)


class Second(Handler):
    def twice(self, text):
        return text * 2

    def join(self, parts):
        return "".join(parts)

    def note(self, id):
        self.ledger.ran("Second:note", id)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", choices=LIBRARIES, required=True)
    parser.add_argument(
        "--thrift",
        metavar="URI",
        required=True,
        help="tcp+framed://127.0.0.1:0, with ?protocol=compact if need be; the port is a free one",
    )
    parser.add_argument("--until-stdin-ends", action="store_true", help="as it does in any case")
    parser.add_argument("--json", metavar="FILE", help="write what was called to this file")
    arguments = parser.parse_args()
    _, _, protocol = address(arguments.thrift)
    # Handlers fail as they are told, which need not be told again.
    logging.disable(logging.CRITICAL)
    used = library(arguments.library)
    ledger = Ledger()
    handlers = {kind.__name__: kind(used, ledger) for kind in (Suite, Second)}

    def listening(port):
        print(f"listening on tcp+framed://127.0.0.1:{port}?protocol={protocol}", flush=True)

    def serve():
        try:
            used.serve(handlers, protocol, listening)
        except Exception as error:
            print(f"{arguments.library} cannot serve: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)

    threading.Thread(target=serve, daemon=True).start()
    sys.stdin.buffer.read()
    counts = ledger.counts()
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(counts, file)
    return 1 if counts["ran_again"] else 0


if __name__ == "__main__":
    sys.exit(main())
