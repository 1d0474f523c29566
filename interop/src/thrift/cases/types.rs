//! Every type.

use std::collections::{BTreeMap, BTreeSet};

use thrift::OrderedFloat;

use super::{Context, Outcome, content, returned, returned_this};
use crate::thrift::suite::{
    ANSWER, Bases, Color, Containers, Empty, Optionals, Point, Shape, TBaseSyncClient,
    TSuiteSyncClient, Tree,
};

/// Deeper than anything in practice, and below what servers take.
const DEPTH: usize = 30;

pub(super) fn ping(context: &Context) -> Outcome {
    returned("ping", context.suite()?.ping())
}

pub(super) fn numbers(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for value in [true, false] {
        returned_this("echo_bool", client.echo_bool(value), &value)?;
    }
    for value in [0, 1, -1, i8::MIN, i8::MAX] {
        returned_this("echo_byte", client.echo_byte(value), &value)?;
    }
    for value in [0, 1, -1, i16::MIN, i16::MAX] {
        returned_this("echo_short", client.echo_short(value), &value)?;
    }
    // Those at the borders of the compact protocol's lengths, too.
    for value in [0, 1, -1, 63, 64, -65, 8_192, -8_193, i32::MIN, i32::MAX] {
        returned_this("echo_int", client.echo_int(value), &value)?;
    }
    for value in [0, 1, -1, 1 << 34, -(1 << 41), i64::MIN, i64::MAX] {
        returned_this("echo_long", client.echo_long(value), &value)?;
    }
    for value in [
        0.0,
        -0.0,
        1.5,
        f64::MIN_POSITIVE,
        f64::MIN,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ] {
        let echoed = client.echo_double(OrderedFloat(value));
        // Both zeros are equal, and all that is no number.
        let bits = echoed.map(|echoed| echoed.0.to_bits());
        returned_this("echo_double", bits, &value.to_bits())?;
    }
    Ok(())
}

pub(super) fn strings_and_binaries(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for value in [
        String::new(),
        "a".to_owned(),
        "Grüße, 世界, 🦀".to_owned(),
        "a\0b\r\n".to_owned(),
        "é".repeat(35_000),
    ] {
        returned_this("echo_string", client.echo_string(value.clone()), &value)?;
    }
    for value in [
        Vec::new(),
        vec![0],
        (0..=u8::MAX).collect(),
        vec![0xff; 70_000],
        content(70_000),
    ] {
        returned_this("echo_binary", client.echo_binary(value.clone()), &value)?;
    }
    Ok(())
}

pub(super) fn enums_and_typedefs(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for value in [Color::RED, Color::GREEN, Color::BLUE, Color(77), Color(-1)] {
        returned_this("echo_color", client.echo_color(value), &value)?;
    }
    for value in [0, 5_000_000_000] {
        returned_this("echo_user", client.echo_user(value), &value)?;
    }
    Ok(())
}

/// One value of each base type.
fn bases() -> Bases {
    Bases {
        flag: Some(true),
        byte_value: Some(-7),
        short_value: Some(-700),
        int_value: Some(70_000),
        long_value: Some(-5_000_000_000),
        double_value: Some(OrderedFloat(0.1)),
        text: Some("text".to_owned()),
        bytes: Some(vec![0, 1, 255]),
        color: Some(Color::BLUE),
        user: Some(9),
    }
}

fn point(x: f64, y: f64) -> Point {
    Point::new(OrderedFloat(x), OrderedFloat(y))
}

pub(super) fn structs(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    returned_this("echo_empty", client.echo_empty(Empty {}), &Empty {})?;
    returned_this("echo_bases", client.echo_bases(bases()), &bases())?;
    let nothing = Optionals::new("name".to_owned(), None, None, None, None, None, None);
    // The Rust compiler ignores defaults: a field that is not `optional` and was not set has zero on
    // the other side, or its default there if that is of another compiler.
    let in_rust = Optionals {
        answer: Some(0),
        ..nothing.clone()
    };
    let elsewhere = Optionals {
        answer: Some(ANSWER),
        color: Some(Color::GREEN),
        ..nothing.clone()
    };
    let echoed = returned("without", client.echo_optionals(nothing))?;
    if echoed != elsewhere {
        returned_this("without", Ok(echoed), &in_rust)?;
    }
    let all = Optionals {
        name: String::new(),
        number: Some(0),
        point: Some(point(-1.0, 1.0)),
        tags: Some(vec!["a".to_owned(), String::new()]),
        answer: Some(41),
        color: Some(Color::RED),
        far_away: Some("far".to_owned()),
    };
    returned_this("with", client.echo_optionals(all.clone()), &all)
}

pub(super) fn unions(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for shape in [
        Shape::Circle(OrderedFloat(1.5)),
        Shape::Corner(point(1.0, 2.0)),
        Shape::Name("hexagon".to_owned()),
        Shape::Sides(vec![3, 4, 5]),
        Shape::Sides(Vec::new()),
    ] {
        returned_this("echo_shape", client.echo_shape(shape.clone()), &shape)?;
    }
    Ok(())
}

/// One branch of so many levels, with a leaf beside each.
pub(super) fn tree(depth: usize) -> Tree {
    let leaf = |label: String| Tree::new(label, Vec::new());
    (0..depth).fold(leaf("end".to_owned()), |tree, level| {
        let children = vec![Box::new(tree), Box::new(leaf(String::new()))];
        Tree::new(level.to_string(), children)
    })
}

pub(super) fn nested(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    returned_this("echo_tree", client.echo_tree(tree(DEPTH)), &tree(DEPTH))
}

pub(super) fn containers(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    let text = str::to_owned;
    let numbers: Vec<i32> = (-500..500).collect();
    let by_number = numbers.iter().map(|number| (*number, number.to_string()));
    let points = BTreeMap::from([(text("a"), point(0.0, 1.0)), (text("b"), point(2.0, 3.0))]);
    let all = Containers {
        longs: Some((0..2_000).map(|at| at * 1_000_000_007).collect()),
        names: Some(["", "a", "ü"].map(text).into()),
        by_number: Some(by_number.collect()),
        deep: Some(vec![vec![vec![1, 2], vec![]], vec![], vec![vec![3]]]),
        maps: Some(
            [(
                text("x"),
                [(1, [1_i16, -1].into()), (2, BTreeSet::new())].into(),
            )]
            .into(),
        ),
        points: Some(vec![point(0.5, -0.5); 20]),
        by_color: Some([(Color::RED, bases()), (Color::BLUE, bases())].into()),
        lists: Some([vec![], vec![1], vec![1, 2]].into()),
        scores: Some([(text("y"), numbers)].into()),
        blobs: Some(vec![vec![], vec![0], content(5_000)]),
        flags: Some((0..100).map(|at| at % 3 == 0).collect()),
        everything: Some([(7, vec![points, BTreeMap::new()])].into()),
    };
    returned_this("echo_containers", client.echo_containers(all.clone()), &all)?;
    let set: BTreeSet<i32> = (0..1_000).map(|at| at * at).collect();
    returned_this("echo_set", client.echo_set(set.clone()), &set)?;
    let map = BTreeMap::from([(text(""), vec![]), (text("z"), vec![point(9.0, 9.0)])]);
    returned_this("echo_map", client.echo_map(map.clone()), &map)
}

pub(super) fn empty_containers(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    // A container that is not set has no elements on the other side: so the compiler has it.
    let nothing = Containers::default();
    let echoed = returned("nothing", client.echo_containers(nothing.clone()))?;
    returned_this("echoed", client.echo_containers(echoed.clone()), &echoed)?;
    let empty = Containers {
        longs: Some(Vec::new()),
        names: Some(BTreeSet::new()),
        by_number: Some(BTreeMap::new()),
        maps: Some(BTreeMap::new()),
        ..nothing
    };
    let echoed = returned("empty", client.echo_containers(empty.clone()))?;
    returned_this("longs", Ok(echoed.longs), &empty.longs)?;
    returned_this("names", Ok(echoed.names), &empty.names)?;
    returned_this("by_number", Ok(echoed.by_number), &empty.by_number)?;
    returned_this("maps", Ok(echoed.maps), &empty.maps)?;
    returned_this(
        "echo_set",
        client.echo_set(BTreeSet::new()),
        &BTreeSet::new(),
    )?;
    returned_this(
        "echo_map",
        client.echo_map(BTreeMap::new()),
        &BTreeMap::new(),
    )
}

pub(super) fn several_arguments(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    let joined = client.join("a".to_owned(), 2, "c".to_owned());
    returned_this("join", joined, &"a, 2, c".to_owned())
}
