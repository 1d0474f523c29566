//! Schedules worked out by hand, and random ones compared with a plain reference.

use super::*;

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

/// A message of `nanos` bytes, which takes that long on the link and 1 µs more in all when it is
/// alone.
fn job(message: MessageId, from: HostId, to: HostId, nanos: u64) -> Job {
    let alone = Span::from_nanos(nanos + 1000);
    Job {
        message,
        from,
        to,
        bytes: nanos,
        occupies: Span::from_nanos(nanos),
        alone,
    }
}

/// Runs messages that start at the given nanoseconds; says when each ends, by number.
fn run(mode: Mode, jobs: &[(u64, Job)]) -> Vec<u64> {
    let mut oracle = Oracle::new(6, mode);
    let mut finished = Vec::new();
    for &(start, job) in jobs {
        oracle.advance(at(start), &mut finished);
        oracle.start(at(start), job).expect("there is room");
    }
    while let Some(next) = oracle.next_event() {
        oracle.advance(next, &mut finished);
    }
    assert!(oracle.active.is_empty() && oracle.waiting_responses.is_empty());
    assert!(
        oracle
            .ends
            .iter()
            .all(|end| end.serving.is_none() && end.first.is_empty())
    );
    finished.sort_by_key(|finish| finish.message);
    finished.iter().map(|finish| finish.at.as_nanos()).collect()
}

#[test]
fn a_message_alone_takes_what_it_takes_alone() {
    assert_eq!(run(Mode::OneWay, &[(70, job(0, 0, 1, 500))]), [70 + 1500]);
}

#[test]
fn messages_without_a_common_link_do_not_touch_each_other() {
    let jobs = [
        (0, job(0, 0, 1, 500)),
        (0, job(1, 1, 0, 600)),
        (10, job(2, 2, 3, 100)),
    ];
    assert_eq!(run(Mode::OneWay, &jobs), [1500, 1600, 1110]);
}

#[test]
fn a_shorter_message_takes_the_link_at_once() {
    let common_source = [(0, job(0, 0, 1, 500)), (100, job(1, 0, 2, 200))];
    assert_eq!(run(Mode::OneWay, &common_source), [1700, 1300]);
    let common_destination = [(0, job(0, 0, 1, 500)), (100, job(1, 2, 1, 200))];
    assert_eq!(run(Mode::OneWay, &common_destination), [1700, 1300]);
}

#[test]
fn what_remains_counts_and_of_equals_the_first_goes_first() {
    // At 300, 200 remain of the first: as much as the second needs, which waits.
    let jobs = [
        (0, job(0, 0, 1, 500)),
        (300, job(1, 0, 2, 200)),
        (330, job(2, 0, 3, 180)),
    ];
    // The third is shorter than the second, and longer than the 170 that remain of the first.
    assert_eq!(
        run(Mode::OneWay, &jobs),
        [1500, 1000 + 500 + 180 + 200, 1000 + 500 + 180]
    );
}

#[test]
fn bytes_decide_and_not_the_time_that_they_take() {
    // At 100, 300 bytes remain of the first, for which it needs 400.
    let dense = Job {
        bytes: 375,
        ..job(0, 0, 1, 500)
    };
    let jobs = [
        (0, dense),
        (100, job(1, 0, 2, 301)),
        (100, job(2, 2, 1, 299)),
    ];
    // The third stops the first, and the second gets its uplink until the third has gone. Then 300
    // bytes remain of the first, and 2 of the second.
    let ends = [401 + 400, 401, 399];
    assert_eq!(run(Mode::OneWay, &jobs), ends.map(|end| end + 1000));
    // Without the third, the first is not stopped.
    assert_eq!(run(Mode::OneWay, &jobs[..2]), [1500, 1801]);
}

#[test]
fn a_message_that_is_stopped_frees_its_other_end_for_one_that_waits() {
    let jobs = [
        (0, job(0, 0, 1, 100)),
        // Waits for the downlink of host 1.
        (0, job(1, 2, 1, 300)),
        // Has the uplink of host 2 until the one above gets it.
        (0, job(2, 2, 3, 1000)),
        // Waits for the downlink of host 3, and has it while the one above is stopped.
        (0, job(3, 4, 3, 2000)),
        // Waits for the uplink of host 4, and is never stopped when it has got it.
        (0, job(4, 4, 5, 3500)),
    ];
    let ends = [
        100,
        // From 100 to 400.
        400,
        // To 100, and from 400.
        400 + 900,
        // From 100 to 400, and from 1300.
        1300 + 1700,
        // To 100, and from 400 to 1300, and from 3000.
        3000 + 3500 - 100 - 900,
    ];
    assert_eq!(run(Mode::OneWay, &jobs), ends.map(|end| end + 1000));
}

#[test]
fn a_response_starts_when_its_request_is_complete() {
    let alone = [(0, job(0, 0, 1, 500))];
    assert_eq!(run(Mode::Echo, &alone), [3000]);
    // The response would go from 1500 to 2000, and waits for 100 at the uplink of its server.
    let jobs = [(0, job(0, 0, 1, 500)), (1600, job(1, 1, 2, 100))];
    assert_eq!(run(Mode::Echo, &jobs), [3100, 1600 + 2200]);
}

#[test]
fn more_messages_than_the_limit_are_an_overload() {
    let mut oracle = Oracle::new(2, Mode::OneWay);
    oracle.max_waiting = 3;
    for message in 0..3 {
        assert_eq!(oracle.start(at(0), job(message, 0, 1, 10)), Ok(()));
    }
    assert!(oracle.start(at(0), job(3, 0, 1, 10)).is_err());
    // One has gone, and there is room for one.
    oracle.advance(at(10), &mut Vec::new());
    assert_eq!(oracle.start(at(10), job(3, 0, 1, 10)), Ok(()));
    assert!(oracle.start(at(10), job(4, 0, 1, 10)).is_err());
}

/// Goes through all messages at every event, as the definition says.
fn reference(jobs: &[(u64, Job)]) -> Vec<u64> {
    struct Open {
        message: usize,
        remaining: u64,
        sequence: usize,
    }
    let mut open: Vec<Open> = Vec::new();
    let mut ends = vec![0; jobs.len()];
    let (mut now, mut next) = (0, 0);
    while next < jobs.len() || !open.is_empty() {
        open.sort_by_key(|one| {
            let job = jobs[one.message].1;
            let bytes_per_nano = job.bytes * 1000 / job.occupies.as_picos();
            (bytes_per_nano * one.remaining, one.sequence)
        });
        let mut taken = Vec::new();
        let mut served = Vec::new();
        for (place, one) in open.iter().enumerate() {
            let Job { from, to, .. } = jobs[one.message].1;
            if !taken.contains(&(0, from)) && !taken.contains(&(1, to)) {
                taken.extend([(0, from), (1, to)]);
                served.push(place);
            }
        }
        let arrival = jobs.get(next).map_or(u64::MAX, |(start, _)| *start);
        let completion = served
            .iter()
            .map(|&place| now + open[place].remaining)
            .min();
        let then = arrival.min(completion.unwrap_or(u64::MAX));
        for place in served {
            open[place].remaining -= then - now;
        }
        now = then;
        for one in open.extract_if(.., |one| one.remaining == 0) {
            let (start, job) = jobs[one.message];
            let not_served = now - start - job.occupies.as_picos() / 1000;
            ends[one.message] = start + not_served + job.alone.as_picos() / 1000;
        }
        if now == arrival {
            let remaining = jobs[next].1.occupies.as_picos() / 1000;
            open.push(Open {
                message: next,
                remaining,
                sequence: next,
            });
            next += 1;
        }
    }
    ends
}

#[test]
fn random_messages_are_scheduled_as_by_the_definition() {
    let mut waited = 0;
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut now = 0;
        let jobs: Vec<_> = (0..100)
            .map(|message| {
                // Many events at the same moment, and many messages of the same length.
                now += random.u64(..3) * random.u64(..60);
                let from = random.u32(..6);
                let to = (from + 1 + random.u32(..5)) % 6;
                let length = [10, 20, 100, 400, 1 + random.u64(..1000)][random.usize(..5)];
                let bytes = length * (1 + random.u64(..3));
                (
                    now,
                    Job {
                        bytes,
                        ..job(message, from, to, length)
                    },
                )
            })
            .collect();
        let ends = run(Mode::OneWay, &jobs);
        assert_eq!(ends, reference(&jobs), "seed {seed}");
        let waits =
            |&(&end, (start, job)): &(&u64, &(u64, Job))| end > start + job.alone.as_picos() / 1000;
        waited += ends.iter().zip(&jobs).filter(waits).count();
    }
    assert!(waited > 8000, "{waited} of 20,000 waited");
}
