namespace rs echo

/** What benchmarks call. */
service Echo {
  /** Answers with what it was sent. */
  binary call(1: binary data),

  /** Answers with so many bytes of what it was sent, and zeros behind them if these are more. */
  binary answer(1: binary data, 2: i32 bytes),
}
