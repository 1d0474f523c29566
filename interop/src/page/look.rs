//! How series look: colours for light and for dark paper, and marks.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use plotters::style::{Color as _, RGBColor, ShapeStyle};

/// Units of the drawing in a pixel of the size at which it is meant to be seen. The library rounds
/// to whole units, which are to be finer than the screen's.
pub(crate) const SCALE: i32 = 4;

/// Text and axes, the grid, and what is below all.
pub(crate) const INK: Colour = Colour::new(0x1A_1A_1A, 0xE8_E8_E8);
pub(crate) const GRID: Colour = Colour::new(0xDD_DD_DD, 0x3A_40_48);
pub(crate) const PAPER: Colour = Colour::new(0xFF_FF_FF, 0x15_18_1C);

/// Colours that remain apart for the colour-blind (Okabe and Ito), and the same for dark paper.
const SERIES: [Colour; 6] = [
    Colour::new(0x00_72_B2, 0x4C_A6_E8),
    Colour::new(0xD5_5E_00, 0xFF_8A_45),
    Colour::new(0x00_9E_73, 0x2E_C4_9A),
    Colour::new(0xCC_79_A7, 0xE8_9E_C8),
    Colour::new(0xE6_9F_00, 0xF2_BE_55),
    Colour::new(0x56_B4_E9, 0xA5_DA_F9),
];

/// Marks. There is one less than colours, so that a pair comes again after thirty.
const MARKS: [Mark; 5] = [
    Mark::new(32, 0.0, 0.85),
    Mark::new(4, 0.125, 1.1),
    Mark::new(3, 0.0, 1.2),
    Mark::new(3, 0.5, 1.2),
    Mark::new(5, 0.0, 1.1),
];

const PUBLISHED: Mark = Mark::new(4, 0.0, 1.3);

/// A colour on light paper, which is the one drawn, and its counterpart on dark paper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colour {
    pub(crate) light: RGBColor,
    dark: RGBColor,
}

/// Colour and mark of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// One of ours, by its number among them.
    Ours(usize),
    /// Published values, in the colour of text.
    Published,
    /// A limit, or a published curve: in that colour too. Its lines have no marks.
    Limit,
}

/// A regular polygon.
#[derive(Clone, Copy, Debug)]
struct Mark {
    corners: u16,
    /// How far the first corner is from the top, in turns.
    turned: f64,
    /// Its size, so that all seem equally large.
    size: f64,
}

impl Mark {
    const fn new(corners: u16, turned: f64, size: f64) -> Self {
        Self {
            corners,
            turned,
            size,
        }
    }
}

impl Colour {
    const fn new(light: u32, dark: u32) -> Self {
        Self {
            light: rgb(light),
            dark: rgb(dark),
        }
    }

    /// A line of that many pixels.
    pub(crate) fn line(self, pixels: u32) -> ShapeStyle {
        self.light.stroke_width(pixels * SCALE.unsigned_abs())
    }

    pub(crate) fn area(self) -> ShapeStyle {
        self.light.filled()
    }
}

const fn rgb(digits: u32) -> RGBColor {
    let [_, red, green, blue] = digits.to_be_bytes();
    RGBColor(red, green, blue)
}

/// Rules of a style sheet that replace each colour of a drawing by its counterpart.
pub(crate) fn dark_rules() -> String {
    let mut rules = String::new();
    for Colour { light, dark } in SERIES.iter().chain(&[INK, GRID, PAPER]) {
        for property in ["fill", "stroke"] {
            // Writing to a string cannot fail.
            let _ = writeln!(
                rules,
                "svg [{property}=\"{}\"] {{ {property}: {} }}",
                hex(*light),
                hex(*dark)
            );
        }
    }
    rules
}

/// As the library writes it.
fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

impl Look {
    fn colour(self) -> Colour {
        match self {
            Self::Ours(number) => SERIES[number % SERIES.len()],
            Self::Published | Self::Limit => INK,
        }
    }

    pub(crate) fn line(self) -> ShapeStyle {
        match self {
            Self::Ours(_) => self.colour().line(2),
            Self::Published | Self::Limit => self.thin_line(),
        }
    }

    pub(crate) fn thin_line(self) -> ShapeStyle {
        self.colour().line(1)
    }

    pub(crate) fn area(self) -> ShapeStyle {
        self.colour().area()
    }

    /// Of its mark about (0, 0).
    pub(crate) fn corners(self) -> Vec<(i32, i32)> {
        let mark = match self {
            Self::Ours(number) => MARKS[number % MARKS.len()],
            Self::Published | Self::Limit => PUBLISHED,
        };
        let size = mark.size * f64::from(4 * SCALE);
        (0..mark.corners)
            .map(|corner| mark.turned + f64::from(corner) / f64::from(mark.corners))
            .map(|turns| (TAU * turns).sin_cos())
            .map(|(sin, cos)| (size * sin, -size * cos))
            .map(|(x, y)| (x.round() as i32, y.round() as i32))
            .collect()
    }
}
