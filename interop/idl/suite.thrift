/*
 * What the cases of `homa-interop thrift` call: every type but uuid, which compilers before 0.20 do
 * not know, and every way in which a call can end.
 *
 * Not here: unions that contain themselves and lists of unions, of which the compiler 0.17 makes
 * code that does not compile.
 */

namespace rs suite
namespace py suite

// ---------------------------------------------------------------------------------------------
// Constants and types

const bool TRUTH = true
const i8 BYTE = -128
const i32 ANSWER = 42
const i64 FAR = 5000000000
const double HALF = 0.5
const string GREETING = "Grüße, 世界"
const list<i32> PRIMES = [2, 3, 5, 7, 11]
const map<string, i32> SIZES = {"small": 1, "large": 1000}

enum Color {
  RED = 1,
  GREEN = 2,
  // The numbers have a gap.
  BLUE = 8,
}

typedef i64 UserId
typedef map<string, list<i32>> Scores

struct Point {
  1: required double x,
  2: required double y,
}

struct Empty {
}

// Every base type, once as it comes.
struct Bases {
  1: bool flag,
  2: i8 byte_value,
  3: i16 short_value,
  4: i32 int_value,
  5: i64 long_value,
  6: double double_value,
  7: string text,
  8: binary bytes,
  9: Color color,
  10: UserId user,
}

// Containers of containers, and of structs.
struct Containers {
  1: list<i64> longs,
  2: set<string> names,
  3: map<i32, string> by_number,
  4: list<list<list<i32>>> deep,
  5: map<string, map<i32, set<i16>>> maps,
  6: list<Point> points,
  7: map<Color, Bases> by_color,
  8: set<list<i16> (python.immutable = "")> lists,
  9: Scores scores,
  10: list<binary> blobs,
  11: list<bool> flags,
  12: map<UserId, list<map<string, Point>>> everything,
}

// Fields that are there, that are not, and that have a default.
struct Optionals {
  1: required string name,
  2: optional i32 number,
  3: optional Point point,
  4: optional list<string> tags,
  5: i32 answer = ANSWER,
  6: optional Color color = Color.GREEN,
  // Numbers far apart take another form in the compact protocol.
  1000: optional string far_away,
}

union Shape {
  1: double circle,
  2: Point corner,
  3: string name,
  4: list<i32> sides,
}

// A structure that contains itself, by way of a list.
struct Tree {
  1: string label,
  2: list<Tree> children,
}

exception Refused {
  1: i32 code,
  2: string why,
}

exception Missing {
  1: required string key,
  2: optional Point near,
}

// ---------------------------------------------------------------------------------------------
// Services

// How a call ends.
enum Ending {
  RETURN = 0,
  REFUSED = 1,
  MISSING = 2,
  UNDECLARED = 3,
  PANIC = 4,
}

// Which call of which client, so that the server can tell whether one ran twice.
struct CallId {
  1: i64 session,
  2: i64 number,
}

// How often the calls of one client ran.
struct Runs {
  // Different calls.
  1: i64 calls,
  // Runs beyond the first of each.
  2: i64 again,
}

service Base {
  void ping(),
  string name(),
}

service Suite extends Base {
  bool echo_bool(1: bool value),
  i8 echo_byte(1: i8 value),
  i16 echo_short(1: i16 value),
  i32 echo_int(1: i32 value),
  i64 echo_long(1: i64 value),
  double echo_double(1: double value),
  string echo_string(1: string value),
  binary echo_binary(1: binary value),
  Color echo_color(1: Color value),
  UserId echo_user(1: UserId value),
  Bases echo_bases(1: Bases value),
  Containers echo_containers(1: Containers value),
  Optionals echo_optionals(1: Optionals value),
  Shape echo_shape(1: Shape value),
  Tree echo_tree(1: Tree value),
  Empty echo_empty(1: Empty value),
  set<i32> echo_set(1: set<i32> value),
  map<string, list<Point>> echo_map(1: map<string, list<Point>> value),

  // Several arguments, in no order of their numbers.
  string join(3: string third, 1: string first, 2: i32 second),

  // So many bytes, each one more than the one before.
  binary make(1: i32 size),

  // How many bytes came, and their sum.
  list<i64> measure(1: binary data),

  // Ends as it is told: returns, throws either exception, fails without one, or panics.
  string finish(1: Ending how) throws (1: Refused refused, 2: Missing missing),

  // The same without a result.
  void finish_void(1: Ending how) throws (1: Refused refused),

  // Returns `text` after some time.
  string wait(1: i32 milliseconds, 2: string text),

  // A numbered call, which returns its own number.
  i64 numbered(1: CallId id, 2: binary payload),

  // A numbered call that nobody waits for; with `fails` its handler returns an error.
  oneway void note(1: CallId id, 2: bool fails),

  Runs runs(1: i64 session),
}

// The second one behind the same port.
service Second extends Base {
  string twice(1: string text),
  // The same name as in `Suite`, another method.
  string join(1: list<string> parts),
  oneway void note(1: CallId id),
}
