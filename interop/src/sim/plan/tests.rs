use std::fs;

use super::super::experiment::Experiment;
use super::super::setup::{TransportName, WorkloadName};
use super::*;

fn runs_of(text: &str) -> Vec<Run> {
    match Plan::parse(text) {
        Ok(plan) => plan.runs,
        Err(fault) => panic!("{text}: {fault:?}"),
    }
}

/// The line of the error of a plan, and what it says.
fn error_of(text: &str) -> (usize, String) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), text).expect("writable");
    match Plan::read(file.path()) {
        Err(PlanError::Line { line, wrong, path }) => {
            assert_eq!(path, file.path());
            (line, wrong.to_string())
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn runs_have_the_defaults_and_their_own_settings() {
    let text = r#"
        title = "Two"
        figures = ["tail", "max-load"]
        [defaults]
        workload = "w4"
        topology = { racks = 2, spines = 1 }
        engine.grant_window = 5000
        [[run]]
        name = "first"
        [[run]]
        name = "second"
        transport = "dctcp"
        load = 1
        topology.racks = 3
        [run.engine]
        boost_tail = true
    "#;
    let plan = Plan::parse(text).expect("right");
    assert_eq!(plan.title, "Two");
    assert_eq!(plan.figures, [Figure::Tail, Figure::MaxLoad]);
    let [first, second] = &runs_of(text)[..] else {
        panic!("two runs");
    };
    assert_eq!(
        (first.name.as_str(), &first.kind),
        ("first", &Kind::Slowdown {})
    );
    assert_eq!(
        first.setup.differs(),
        [
            "engine.grant_window = 5000",
            "topology.racks = 2",
            "topology.spines = 1",
            "workload = \"w4\"",
        ]
    );
    assert_eq!(second.setup.transport, TransportName::Dctcp);
    assert_eq!(second.setup.load, 1.0);
    assert_eq!(
        second.setup.topology,
        super::super::setup::Topology {
            racks: 3,
            spines: 1,
            ..Default::default()
        }
    );
    assert_eq!(second.setup.engine.grant_window, Some(5000));
    assert_eq!(second.setup.engine.boost_tail, Some(true));
}

#[test]
fn sweeps_make_a_run_for_each_combination_in_the_order_of_the_file() {
    let runs = runs_of(
        r#"
        [[run]]
        name = "all"
        engine.boost_tail = true
        sweep.workload = ["w1", "w5"]
        sweep.load = [0.5, 0.8]
        sweep.engine.max_overcommit = [1]
    "#,
    );
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "all workload=w1 load=0.5 max_overcommit=1",
            "all workload=w1 load=0.8 max_overcommit=1",
            "all workload=w5 load=0.5 max_overcommit=1",
            "all workload=w5 load=0.8 max_overcommit=1",
        ]
    );
    let setup = &runs[2].setup;
    assert_eq!((setup.workload, setup.load), (WorkloadName::W5, 0.5));
    assert_eq!(setup.engine.boost_tail, Some(true));
    assert_eq!(setup.engine.max_overcommit, Some(1));
}

#[test]
fn a_kind_is_a_name_or_a_table() {
    let kind_of = |line: &str| {
        runs_of(&format!("[[run]]\nname = \"x\"\n{line}"))[0]
            .kind
            .clone()
    };
    assert_eq!(kind_of("kind = \"slowdown\""), Kind::Slowdown {});
    assert_eq!(
        kind_of("kind = \"max-load\""),
        Kind::MaxLoad(MaxLoad::default())
    );
    let fine = MaxLoad {
        step: 0.005,
        ..MaxLoad::default()
    };
    assert_eq!(
        kind_of("kind.max-load = { step = 0.005 }"),
        Kind::MaxLoad(fine)
    );
    assert_eq!(kind_of("kind = \"scale\""), Kind::Scale(Scale::default()));
    let Kind::Incast(incast) = kind_of("kind.incast.servers = 3") else {
        panic!("an incast");
    };
    assert_eq!(incast.servers, 3);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, line, expected) in [
        ("", 1, "there is no [[run]]"),
        ("title = \"x\"\nrun = []", 2, "there is no [[run]]"),
        (
            "title = \"x\"\nfigures = [\"tial\"]\n[[run]]\nname = \"x\"",
            2,
            "unknown variant `tial`, expected one of `tail`",
        ),
        ("title = 3\n[[run]]\nname = \"x\"", 1, "expected a string"),
        ("\nx y", 2, ""),
        (
            "[[run]]\nname = \"x\"\n[extra]\n",
            3,
            "unknown key `extra`, expected `title`",
        ),
        (
            "[defaults]\nload = 0.5\nlod = 0.5\n[[run]]\nname = \"x\"",
            3,
            "unknown field `lod`",
        ),
        (
            "[[run]]\nname = \"x\"\n\n[run.topology]\nrack = 1",
            5,
            "unknown field `rack`",
        ),
        (
            "[[run]]\nname = \"x\"\nengine.grant_windw = 1",
            3,
            "`grant_window`",
        ),
        ("[[run]]\nname = \"x\"\nload = \"high\"", 3, "expected f64"),
        (
            "[[run]]\nname = \"x\"\nworkload = \"w6\"",
            3,
            "unknown variant `w6`",
        ),
        ("[[run]]\nload = 0.5", 1, "a run has no name"),
        (
            "[[run]]\nname = \"x\"\n[[run]]\nname = \"x\"",
            3,
            "another run is named \"x\"",
        ),
        (
            "[[run]]\nname = \"x\"\nkind = \"fast\"",
            3,
            "unknown variant `fast`",
        ),
        (
            "[[run]]\nname = \"x\"\nkind.max-load = { form = 1 }",
            3,
            "unknown field `form`",
        ),
        (
            "[[run]]\nname = \"x\"\nkind.max-load = { from = 0.9, to = 0.8 }",
            1,
            "0 < from <= to <= 1",
        ),
        (
            "[[run]]\nname = \"x\"\nkind.scale.hosts = [1]",
            1,
            "2 to 1,024 hosts",
        ),
        (
            "[[run]]\nname = \"x\"\nsweep.load = 0.5",
            3,
            "sweep.load is not a list",
        ),
        (
            "[[run]]\nname = \"x\"\nsweep.engine.min_grant = []",
            3,
            "sweep.engine.min_grant is not a list",
        ),
        (
            "[[run]]\nname = \"x\"\nsweep.speed = [1]",
            3,
            "unknown field `speed`",
        ),
        (
            "\n[[run]]\nname = \"x\"\nsweep.load = [0.5, 2]",
            2,
            "the run \"x load=2\": load = 2 is out of range",
        ),
    ] {
        let (at, message) = error_of(text);
        assert_eq!(at, line, "{text}: {message}");
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn sweeps_without_end_are_refused_before_they_are_made() {
    let seeds: Vec<String> = (0..1001).map(|seed| seed.to_string()).collect();
    let seeds = seeds.join(", ");
    let many = format!("[[run]]\nname = \"x\"\nsweep.seed = [{seeds}]");
    assert!(error_of(&many).1.contains("more than 1000 runs"));
    let product = format!("{many}\nsweep.window_us = [{seeds}]\nsweep.warm_up_us = [{seeds}]");
    assert!(error_of(&product).1.contains("more than 1000 runs"));
}

#[test]
fn sizes_are_looked_for_beside_the_plan() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("plan.toml");
    fs::write(&path, "[[run]]\nname = \"x\"\ncdf = \"mine.txt\"").expect("writable");
    let plan = Plan::read(&path).expect("right");
    assert_eq!(
        plan.runs[0].setup.cdf,
        Some(directory.path().join("mine.txt"))
    );
    let error = Plan::read(&directory.path().join("none.toml")).expect_err("is not there");
    assert!(error.to_string().contains("none.toml"), "{error}");
}

#[test]
fn whole_distributions_are_taken_for_runs_without_sizes_of_their_own() {
    let data = Path::new("data");
    let whole = |name: &str| Some(data.join("workloads").join(name));
    let text = "[[run]]\nname = \"a\"\nsweep.workload = [\"w1\", \"w2\"]\n\
                [[run]]\nname = \"b\"\nworkload = \"w1\"\ncdf = \"mine.txt\"";
    let mut plan = Plan::parse(text).expect("right");
    plan.take_sizes_from(data);
    let cdfs: Vec<_> = plan.runs.into_iter().map(|run| run.setup.cdf).collect();
    let mine = Some("mine.txt".into());
    assert_eq!(cdfs, [whole("w1_sim.txt"), whole("w2_sim.txt"), mine]);
}

#[test]
fn the_plans_of_the_published_experiments_are_right() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
    let mut runs = Vec::new();
    for entry in fs::read_dir(directory).expect("there are plans") {
        let path = entry.expect("readable").path();
        match Plan::read(&path) {
            Ok(plan) => {
                assert!(!plan.title.is_empty(), "{}", path.display());
                let name = path.file_stem().unwrap_or_default();
                runs.push((name.to_string_lossy().into_owned(), plan.runs.len()));
                assert_eq!(plan.check_alike(), Ok(()), "{}", path.display());
                for run in plan.runs {
                    let checked = Experiment::new(run, None).map(drop);
                    assert!(checked.is_ok(), "{}: {checked:?}", path.display());
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    runs.sort_unstable();
    let expected = [
        ("ablations", 28),
        ("atc21-echo", 8),
        ("baselines", 12),
        ("figure-10", 5),
        ("figure-10-load-50", 5),
        ("figure-12", 5),
        ("figure-13", 32),
        ("figure-14", 3),
        ("incast", 2),
        ("scale", 1),
        ("table-1", 5),
        ("wire", 10),
    ];
    let expected = expected.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(runs, expected);
}

#[test]
fn the_plan_of_the_documentation_is_right() {
    let text = include_str!("../../../../docs/simulator.md");
    let (_, plan) = text.split_once("```toml\n").expect("there is a plan");
    let (plan, _) = plan.split_once("```").expect("which ends");
    assert_eq!(runs_of(plan).len(), 6);
}

#[test]
fn options_that_make_runs_alike_are_refused() {
    let text = "[[run]]\nname = \"a\"\nsweep.load = [0.3, 0.5]";
    let mut plan = Plan::parse(text).expect("right");
    assert_eq!(plan.check_alike(), Ok(()));
    for run in &mut plan.runs {
        run.setup.load = 0.4;
    }
    let error = plan
        .check_alike()
        .expect_err("they are the same")
        .to_string();
    assert!(
        error.contains("\"a load=0.3\" and \"a load=0.5\""),
        "{error}"
    );
}
