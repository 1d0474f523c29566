/** What the Thrift examples call. */
namespace rs calculator

/** What to do with two numbers. */
enum Operation {
  ADD = 1,
  SUBTRACT = 2,
  MULTIPLY = 3,
  DIVIDE = 4
}

/** One task. */
struct Work {
  1: required i64 left,
  2: required i64 right,
  3: required Operation operation
}

/** The task has no result. */
exception InvalidOperation {
  1: required string why
}

/** Calculates. */
service Calculator {
  i64 calculate(1: Work work) throws (1: InvalidOperation invalid)
}

/** Keeps lines of text. */
service Journal {
  /** Nobody waits for the line to be written. */
  oneway void note(1: string line),

  /** All lines so far. */
  list<string> lines()
}
