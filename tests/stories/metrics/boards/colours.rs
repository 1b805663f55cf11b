//! The palette of the boards: only colours that stay apart for people who see them differently.

use super::boards;

/// Okabe and Ito, 2008; grey instead of black, which a dark board swallows.
const OKABE_ITO: [&str; 8] =
    ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"];

#[test]
fn colours_stay_apart_for_people_who_see_them_differently() {
    for (path, _) in boards() {
        let text = std::fs::read_to_string(&path).expect("a readable board");
        for colour in text.split('"').filter(|word| word.starts_with('#')) {
            assert!(OKABE_ITO.contains(&colour), "{}: {colour}", path.display());
        }
    }
    for (at, one) in OKABE_ITO.iter().enumerate() {
        for other in &OKABE_ITO[at + 1..] {
            let [a, b] = [one, other].map(|colour| without_green_cones(linear(colour)));
            let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            assert!(distance > 0.05, "{one} and {other} look alike: {distance}");
        }
    }
}

#[test]
fn lines_can_be_seen_on_a_dark_board() {
    // Grafana's dark background; 2:1 is what a line two pixels wide needs to be followed.
    let background = luminance(linear("#181B1F"));
    for colour in OKABE_ITO {
        let contrast = (luminance(linear(colour)) + 0.05) / (background + 0.05);
        assert!(contrast > 2.0, "{colour}: {contrast}");
    }
}

fn luminance([r, g, b]: [f64; 3]) -> f64 {
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

fn linear(colour: &str) -> [f64; 3] {
    [1, 3, 5].map(|at| {
        let channel = u8::from_str_radix(&colour[at..at + 2], 16).expect("a colour");
        (f64::from(channel) / 255.0).powf(2.2)
    })
}

/// What deuteranopia leaves of a colour (Viénot, Brettel and Mollon, 1999).
fn without_green_cones([r, g, b]: [f64; 3]) -> [f64; 3] {
    [0.29275 * r + 0.70725 * g, 0.29275 * r + 0.70725 * g, -0.02234 * r + 0.02234 * g + b]
}
