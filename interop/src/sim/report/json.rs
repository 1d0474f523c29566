//! The report as JSON: of one experiment its outcome, of many
//! `{ "title": ..., "runs": [...], "max_loads": [...], "incasts": [...], "scales": [...] }`, without
//! the kinds that there are none of.

use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};

use super::Report;

/// Digits that a measured figure is told with: more than another seed leaves alike, and few
/// enough that the last bits of a mean show nowhere.
const DIGITS: i32 = 6;

/// What to write. Figures are rounded; the set-up is exact, so that it can be run again.
pub(super) struct Json<'a>(pub(super) &'a Report<'a>);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Report {
            title,
            runs,
            max_loads,
            incasts,
            scales,
            ..
        } = self.0;
        let kinds = [
            ("runs", outcomes(runs)),
            ("max_loads", outcomes(max_loads)),
            ("incasts", outcomes(incasts)),
            ("scales", outcomes(scales)),
        ];
        let mut whole = Map::new();
        whole.insert("title".to_owned(), Value::from(*title));
        for (kind, found) in kinds {
            let mut found = found.map_err(S::Error::custom)?;
            if self.0.is_alone()
                && let Some(alone) = found.pop()
            {
                return alone.serialize(serializer);
            }
            if !found.is_empty() {
                whole.insert(kind.to_owned(), Value::Array(found));
            }
        }
        whole.serialize(serializer)
    }
}

fn outcomes<T: Serialize>(outcomes: &[T]) -> Result<Vec<Value>, serde_json::Error> {
    outcomes.iter().map(outcome).collect()
}

fn outcome(outcome: &impl Serialize) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(outcome)?;
    if let Value::Object(fields) = &mut value {
        for (name, field) in fields {
            if name != "setup" {
                round(field);
            }
        }
    }
    Ok(value)
}

/// Rounds every fraction in `value`. What is no number has become null on its way here.
fn round(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(rounded) = number.as_f64().and_then(significant) {
                *number = rounded;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        _ => {}
    }
}

/// To [`DIGITS`] significant digits, but never coarser than whole units.
fn significant(value: f64) -> Option<Number> {
    if value == 0.0 {
        return Number::from_f64(0.0);
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (DIGITS - 1 - magnitude).clamp(0, 15) as usize;
    // By way of decimal digits, which gives the value that is nearest to them.
    format!("{value:.decimals$}")
        .parse()
        .ok()
        .and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::sim::outcome::Outcome;

    fn report(runs: &[Outcome]) -> Value {
        let report = Report {
            title: "title",
            runs,
            ..Report::default()
        };
        serde_json::to_value(Json(&report)).expect("plain data")
    }

    #[test]
    fn one_run_is_its_outcome_and_many_are_a_list() {
        let outcome = sample::outcome("one");
        let one = report(std::slice::from_ref(&outcome));
        assert_eq!(one["name"], "one");
        let bucket = &one["slowdown"][0];
        let keys: Vec<_> = bucket.as_object().expect("a bucket").keys().collect();
        assert_eq!(
            keys,
            [
                "upper_bytes",
                "count",
                "mean",
                "p50",
                "p99",
                "p999",
                "p99_by_host",
                "unfinished"
            ]
        );
        let many = report(&[outcome.clone(), outcome]);
        assert_eq!(many["title"], "title");
        assert_eq!(many["runs"][1], one);
        assert_eq!(many.get("max_loads"), None);
    }

    #[test]
    fn each_kind_of_experiment_has_its_list() {
        let report = Report {
            title: "title",
            runs: &[sample::outcome("one")],
            max_loads: &[sample::max_load("w4")],
            ..Report::default()
        };
        let json = serde_json::to_value(Json(&report)).expect("plain data");
        assert_eq!(json["runs"][0]["name"], "one");
        assert_eq!(json["max_loads"][0]["probes"][1]["carried"], true);
        let report = Report {
            runs: &[],
            ..report
        };
        let json = serde_json::to_value(Json(&report)).expect("plain data");
        assert_eq!(json["carried"], 0.92);
    }

    #[test]
    fn figures_are_rounded_and_the_setup_is_not() {
        let mut outcome = sample::outcome("one");
        outcome.setup.load = 0.123_456_789;
        outcome.wasted = 0.123_456_789;
        outcome.throughput.offered_gbps = 7.1 + f64::EPSILON * 8.0;
        outcome.queues.tor_to_host.mean_bytes = 12_345_678.9;
        let json = report(&[outcome]);
        assert_eq!(json["setup"]["load"], 0.123_456_789);
        assert_eq!(json["wasted"], 0.123_457);
        assert_eq!(json["throughput"]["offered_gbps"], 7.1);
        assert_eq!(json["queues"]["tor_to_host"]["mean_bytes"], 12_345_679.0);
    }

    #[test]
    fn what_is_no_number_is_null() {
        let mut outcome = sample::outcome("one");
        outcome.wasted = f64::NAN;
        outcome.slowdown[0].p99 = f64::INFINITY;
        let json = report(&[outcome]);
        assert!(json["wasted"].is_null() && json["slowdown"][0]["p99"].is_null());
    }
}
