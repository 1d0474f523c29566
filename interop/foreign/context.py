"""What cases call through, and how they check what comes back."""

import math
import random
import threading
import time

# Seconds that one call may take where a case says nothing else.
CALL_LIMIT = 10

# Seconds until a oneway call must have run.
ONEWAY_LIMIT = 10


class Context:
    """For one case, whose calls the server counts apart."""

    def __init__(self, used, where, calls):
        self.used = used
        self.types = used.types
        self.where = where
        self.calls = calls
        self.session = random.getrandbits(63)
        self.made = 0
        self.lock = threading.Lock()
        self.open = []

    @property
    def protocol(self):
        return self.where[2]

    def client(self, service, prefix=None, timeout=CALL_LIMIT):
        client = self.used.connect(*self.where, service, prefix, timeout)
        with self.lock:
            self.open.append(client)
        return client

    def suite(self, timeout=CALL_LIMIT):
        """A client that names no service."""
        return self.client("Suite", timeout=timeout)

    def second(self):
        return self.client("Second", "Second")

    def close(self):
        for client in self.open:
            client.close()

    def next_id(self):
        with self.lock:
            number = self.made
            self.made += 1
        return self.types.CallId(session=self.session, number=number)

    def ran_once(self):
        """Whether every numbered call runs exactly once; oneway calls may still be on their way."""
        deadline = time.monotonic() + ONEWAY_LIMIT
        client = self.suite()
        runs = client.runs(self.session)
        while runs.calls < self.made and time.monotonic() < deadline:
            time.sleep(0.002)
            runs = client.runs(self.session)
        text = f"of {self.made} numbered calls {runs.calls} ran, and {runs.again} ran again"
        check(runs.calls == self.made and not runs.again, text)

    def application_error(self, kind, call, *parts):
        """The call ends with an exception of this kind, in whose text are these parts."""
        try:
            result = call()
        except self.used.ApplicationError as error:
            text = error.message or ""
            check(error.type == kind, f"kind {error.type} in place of {kind}: {text}")
            for part in parts:
                check(part in text, f"no {part!r} in {text!r}")
            return
        raise AssertionError(f"it returned {short(result)}, in place of an exception")


def check(holds, text):
    if not holds:
        raise AssertionError(text)


def short(value):
    return repr(value)[:120]


def same(found, expected):
    """Whether a value came back; sets may come as lists, and structures of either library do."""
    if isinstance(expected, float):
        same_sign = math.copysign(1, found) == math.copysign(1, expected)
        both = math.isnan(found) and math.isnan(expected)
        return both or (type(found) is float and found == expected and same_sign)
    if isinstance(expected, (set, frozenset)):
        frozen = {tuple(it) if isinstance(it, list) else it for it in found}
        return len(found) == len(expected) and frozen == expected
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            same(found[key], value) for key, value in expected.items()
        )
    if hasattr(expected, "thrift_spec"):
        return type(found) is type(expected) and same(vars(found), vars(expected))
    return type(found) is type(expected) and found == expected


def echoed(call, value):
    """The call returns its argument."""
    found = call(value)
    check(same(found, value), f"{short(found)} in place of {short(value)}")
