namespace rs echo
/** What benchmarks call. */
service Echo {
  /** Answers with what it was sent. */
  binary call(1: binary data),
}
