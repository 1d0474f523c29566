"""The cases, by the names that they have in `homa-interop thrift --list`."""

import math
import threading
import time

from common import LIMIT, content
from context import check, echoed, same, short

# Kinds of exceptions.
UNKNOWN, UNKNOWN_METHOD, INTERNAL_ERROR, PROTOCOL_ERROR = 0, 1, 6, 7

# Around what packets and buffers hold.
SIZES = [
    0, 1, 2, 1_300, 1_372, 1_400, 1_460, 1_500, 4_095, 4_096, 4_097, 8_191, 8_193, 16_384, 64_000,
    65_535, 65_536, 65_537, 300_000,
]  # fmt: skip

# What a request of `measure` has besides its data, in the binary protocol: the message's version,
# name, length of the name and number, the field's type and number, the length, the end.
HEAD = 4 + 4 + len("measure") + 4 + 1 + 2 + 4 + 1

# Clients at once.
CLIENTS = 16

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


# Every type


@case
def ping(context):
    check(context.suite().ping() is None, "a result of a method without one")


@case
def numbers(context):
    client = context.suite()
    for value in [True, False]:
        echoed(client.echo_bool, value)
    for value in [0, 1, -1, -(2**7), 2**7 - 1]:
        echoed(client.echo_byte, value)
    for value in [0, 1, -1, -(2**15), 2**15 - 1]:
        echoed(client.echo_short, value)
    for value in [0, 1, -1, 63, 64, -65, 8_192, -8_193, -(2**31), 2**31 - 1]:
        echoed(client.echo_int, value)
    for value in [0, 1, -1, 2**34, -(2**41), -(2**63), 2**63 - 1]:
        echoed(client.echo_long, value)
    most, least = 1.7976931348623157e308, 2.2250738585072014e-308
    for value in [0.0, -0.0, 1.5, least, -most, most, math.inf, -math.inf, math.nan]:
        echoed(client.echo_double, value)


@case
def strings_and_binaries(context):
    client = context.suite()
    for value in ["", "a", "Grüße, 世界, 🦀", "a\0b\r\n", "é" * 35_000]:
        echoed(client.echo_string, value)
    for value in [b"", b"\0", bytes(range(256)), b"\xff" * 70_000, content(70_000)]:
        echoed(client.echo_binary, value)


@case
def enums_and_typedefs(context):
    client, color = context.suite(), context.types.Color
    for value in [color.RED, color.GREEN, color.BLUE, 77, -1]:
        found = client.echo_color(value)
        check(int(found) == int(value), f"{found!r} in place of {value!r}")
    for value in [0, 5_000_000_000]:
        echoed(client.echo_user, value)


def bases(types):
    """One value of each base type."""
    return types.Bases(
        flag=True,
        byte_value=-7,
        short_value=-700,
        int_value=70_000,
        long_value=-5_000_000_000,
        double_value=0.1,
        text="Grüße, 世界",
        bytes=b"\0\1\xff",
        color=types.Color.BLUE,
        user=9,
    )


@case
def structs(context):
    client, types = context.suite(), context.types
    echoed(client.echo_empty, types.Empty())
    echoed(client.echo_bases, bases(types))
    # Fields that are not there; those with defaults have them.
    nothing = types.Optionals(name="name")
    check(nothing.answer == 42, f"a default of {nothing.answer}")
    echoed(client.echo_optionals, nothing)
    everything = types.Optionals(
        name="",
        number=0,
        point=types.Point(x=-1.0, y=1.0),
        tags=["a", ""],
        answer=41,
        color=types.Color.RED,
        far_away="far",
    )
    echoed(client.echo_optionals, everything)


@case
def unions(context):
    client, types = context.suite(), context.types
    for value in [
        types.Shape(circle=1.5),
        types.Shape(corner=types.Point(x=1.0, y=2.0)),
        types.Shape(name="hexagon"),
        types.Shape(sides=[3, 4, 5]),
        types.Shape(sides=[]),
    ]:
        echoed(client.echo_shape, value)


def tree(types, depth):
    """One branch of so many levels, with a leaf beside each."""
    grown = types.Tree(label="end", children=[])
    for level in range(depth):
        leaf = types.Tree(label="", children=[])
        grown = types.Tree(label=str(level), children=[grown, leaf])
    return grown


@case
def nested(context):
    echoed(context.suite().echo_tree, tree(context.types, 30))


@case
def containers(context):
    client, types = context.suite(), context.types
    points = {"a": types.Point(x=0.0, y=1.0), "b": types.Point(x=2.0, y=3.0)}
    everything = types.Containers(
        longs=[at * 1_000_000_007 for at in range(2_000)],
        names={"", "a", "ü"},
        by_number={number: str(number) for number in range(-500, 500)},
        deep=[[[1, 2], []], [], [[3]]],
        maps={"x": {1: {1, -1}, 2: set()}},
        points=[types.Point(x=0.5, y=-0.5)] * 20,
        by_color={types.Color.RED: bases(types), types.Color.BLUE: bases(types)},
        lists={(), (1,), (1, 2)},
        scores={"y": list(range(-500, 500))},
        blobs=[b"", b"\0", content(5_000)],
        flags=[at % 3 == 0 for at in range(100)],
        everything={7: [points, {}]},
    )
    echoed(client.echo_containers, everything)
    echoed(client.echo_set, {at * at for at in range(1_000)})
    echoed(client.echo_map, {"": [], "z": [types.Point(x=9.0, y=9.0)]})


@case
def empty_containers(context):
    client, types = context.suite(), context.types
    empty = types.Containers(longs=[], names=set(), by_number={}, maps={})
    found = client.echo_containers(empty)
    for name in ["longs", "names", "by_number", "maps"]:
        check(len(getattr(found, name)) == 0, f"{name}: {short(getattr(found, name))}")
    echoed(client.echo_set, set())
    echoed(client.echo_map, {})


@case
def several_arguments(context):
    joined = context.suite().join(first="a", second=2, third="c")
    check(joined == "a, 2, c", joined)


# Messages of every length


def measured(client, size):
    data = content(size)
    check(client.measure(data) == [size, sum(data)], f"{size} bytes")


@case
def sizes_up(context):
    client = context.suite()
    for size in SIZES:
        measured(client, size)


@case
def sizes_down(context):
    client = context.suite()
    for size in SIZES:
        check(client.make(size) == content(size), f"{size} bytes")


@case
def longest_request(context):
    """On one connection, whatever is refused on it."""
    client, fits = context.suite(), LIMIT - HEAD
    # The compact protocol needs less for the rest.
    too_long = fits + 1 if context.protocol == "binary" else LIMIT
    for _ in range(2):
        measured(client, fits)
        for size in [too_long, 3 * LIMIT]:
            data = content(size)
            context.application_error(INTERNAL_ERROR, lambda: client.measure(data), str(LIMIT))
            client.ping()


@case
def longest_reply(context):
    client = context.suite()
    check(client.make(LIMIT - 100) == content(LIMIT - 100), "almost")
    for size in [LIMIT, 10 * LIMIT]:
        context.application_error(INTERNAL_ERROR, lambda: client.make(size), str(LIMIT))
        client.ping()


# Every way in which a call can end


def declared(call, kind, **fields):
    """The call ends with this exception."""
    try:
        result = call()
    except kind as error:
        for name, value in fields.items():
            found = getattr(error, name)
            check(same(found, value), f"{name}: {short(found)} in place of {short(value)}")
        return
    raise AssertionError(f"it returned {short(result)}, in place of {kind.__name__}")


@case
def declared_exceptions(context):
    client, types, how = context.suite(), context.types, context.types.Ending
    check(client.finish(how.RETURN) == "returned", "it did not return")
    declared(lambda: client.finish(how.REFUSED), types.Refused, code=7, why="as asked")
    near = types.Point(x=1.5, y=-2.5)
    declared(lambda: client.finish(how.MISSING), types.Missing, key="a key", near=near)
    client.ping()


@case
def undeclared_exception(context):
    client, how = context.suite(), context.types.Ending
    text = "undeclared, as asked"
    context.application_error(UNKNOWN, lambda: client.finish(how.UNDECLARED), text)
    client.ping()


@case
def panicking_handler(context):
    client, how = context.suite(), context.types.Ending
    for _ in range(3):
        context.application_error(INTERNAL_ERROR, lambda: client.finish(how.PANIC), "panicked")
    client.ping()


@case
def void_ends(context):
    client, types, how = context.suite(), context.types, context.types.Ending
    check(client.finish_void(how.RETURN) is None, "a result of a method without one")
    declared(lambda: client.finish_void(how.REFUSED), types.Refused, code=7)
    # Of the two exceptions it declares one.
    context.application_error(UNKNOWN, lambda: client.finish_void(how.MISSING))
    context.application_error(INTERNAL_ERROR, lambda: client.finish_void(how.PANIC))
    client.finish_void(how.RETURN)


@case
def unknown_method(context):
    # A client of the other service that calls this one.
    client = context.client("Second", "Suite")
    for _ in range(2):
        context.application_error(UNKNOWN_METHOD, lambda: client.twice("x"), "twice")
    client.ping()


# Several services


@case
def two_services(context):
    suite, second = context.client("Suite", "Suite"), context.second()
    for _ in range(3):
        joined = suite.join(first="a", second=2, third="c")
        check(joined == "a, 2, c", joined)
        check(second.join(["a", "b"]) == "ab", "Second:join")
        check(second.twice("ab") == "abab", "Second:twice")
    second.note(context.next_id())
    suite.note(context.next_id(), False)
    context.ran_once()


@case
def default_service(context):
    check(context.suite().name() == "Suite", "another service")


@case
def unknown_service(context):
    client = context.client("Base", "Nobody")
    for _ in range(2):
        try:
            client.ping()
        except context.used.ApplicationError as error:
            check("Nobody" in (error.message or ""), f"it does not name it: {error.message}")
        else:
            raise AssertionError("a service that nobody has answered")
    context.suite().ping()


@case
def inheritance(context):
    for service in ["Suite", "Second"]:
        client = context.client("Base", service)
        client.ping()
        check(client.name() == service, "another service")


# Oneway calls


@case
def oneway_runs(context):
    client = context.suite()
    for number in range(10):
        client.note(context.next_id(), False)
        echoed(client.echo_int, number)
    context.ran_once()


@case
def oneway_fails(context):
    client = context.suite()
    for _ in range(5):
        client.note(context.next_id(), True)
        client.ping()
    context.ran_once()


@case
def oneways_in_a_row(context):
    client = context.suite()
    for _ in range(context.calls):
        client.note(context.next_id(), False)
    client.ping()
    context.ran_once()


@case
def oneway_last_act(context):
    for _ in range(10):
        client = context.suite()
        client.note(context.next_id(), False)
        client.close()
    context.ran_once()


# After something went wrong


@case
def timeout_and_late_reply(context):
    """A connection is lost with its late reply; the next one does not get it."""
    impatient, slow = 0.3, 0.6
    client = context.suite(impatient)
    began = time.monotonic()
    try:
        client.wait(int(slow * 1000), "late")
    except Exception as error:
        check(context.used.is_timeout(error), f"not a timeout: {error!r}")
    else:
        raise AssertionError("it has waited longer than it should")
    client.close()
    client = context.suite(impatient)
    number = 0
    while time.monotonic() - began < 2 * slow:
        check(client.wait(5, str(number)) == str(number), "the reply to another call")
        number += 1


@case
def after_errors(context):
    client, types = context.suite(), context.types
    for _ in range(3):
        too_long = content(LIMIT + 1)
        context.application_error(INTERNAL_ERROR, lambda: client.measure(too_long))
        echoed(client.echo_int, 1)
        context.application_error(INTERNAL_ERROR, lambda: client.make(LIMIT + 1))
        echoed(client.echo_int, 2)
        context.application_error(INTERNAL_ERROR, lambda: client.finish(types.Ending.PANIC))
        echoed(client.echo_int, 3)
        declared(lambda: client.finish(types.Ending.REFUSED), types.Refused)
        echoed(client.echo_int, 4)


@case
def too_deep(context):
    client, types = context.suite(), context.types
    context.application_error(PROTOCOL_ERROR, lambda: client.echo_tree(tree(types, 200)))
    client.ping()


# Many at once


def at_once(count, call):
    """Runs `call` on so many threads; the first failure is that of all."""
    failures = []

    def body(at):
        try:
            call(at)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=body, args=(at,), daemon=True) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def numbered(context, client, size):
    call = context.next_id()
    check(client.numbered(call, content(size)) == call.number, "the reply to another call")


@case
def many_clients(context):
    calls = -(-context.calls // CLIENTS)

    def one(at):
        client = context.suite()
        for call in range(calls):
            numbered(context, client, (at * 7_919 + call * 104_729) % 20_000)
            echoed(client.echo_string, f"{at}, {call}")

    at_once(CLIENTS, one)
    context.ran_once()


@case
def slow_beside_fast(context):
    def one(at):
        client = context.suite()
        if at == 0:
            check(client.wait(800, "slow") == "slow", "slow")
            return
        began = time.monotonic()
        for _ in range(20):
            client.ping()
        took = time.monotonic() - began
        check(took < 0.8, f"the fast calls took {took:.3f} s")

    at_once(2, one)


@case
def runs_once(context):
    calls = -(-context.calls // CLIENTS)

    def one(at):
        client = context.suite()
        for call in range(calls):
            if (at + call) % 2 == 0:
                client.note(context.next_id(), call % 3 == 0)
            else:
                numbered(context, client, 1_000)

    at_once(CLIENTS, one)
    context.ran_once()
