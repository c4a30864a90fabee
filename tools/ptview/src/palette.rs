//! Colours. Each has a name, under which the pictures use it, and is chosen twice: for light and for
//! dark. The hues are those of Okabe and Ito, which people with any colour vision tell apart; letters
//! or words say the same beside them.

use std::fmt::Write;

/// A fill: name, colour on a light page, colour on a dark one.
pub type Fill = (&'static str, &'static str, &'static str);

/// The fills of pictures.
pub const FILLS: &[Fill] = &[
    // What user space may do with a page.
    ("read", "#56b4e9", "#56b4e9"),
    ("exec", "#009e73", "#17b88c"),
    ("write", "#e69f00", "#e69f00"),
    ("wx", "#c93400", "#ff6a33"),
    ("xonly", "#005f45", "#7fe0c3"),
    ("kernel", "#8a7a6d", "#a89a8d"),
    // What is not mapped.
    ("noacc", "#b8b8b8", "#6c6c6c"),
    ("swap", "#7b52ab", "#b48be0"),
    ("poison", "#1a1a1a", "#f5f5f5"),
    ("moving", "#cc79a7", "#cc79a7"),
    ("other", "#d8c93a", "#f0e442"),
    // Tables and mappings.
    ("table", "#c9ced6", "#454d5a"),
    ("region", "#dfe3ea", "#333a45"),
    ("flag", "#3d6fb4", "#6fa3ea"),
    ("device", "#a8457d", "#e08fbc"),
    // Differences.
    ("added", "#0072b2", "#4aa8e0"),
    ("gone", "#c93400", "#ff6a33"),
    ("changed", "#e69f00", "#e69f00"),
    // From little to much: lightness grows with distance to the page.
    ("h1", "#f4be80", "#70441d"),
    ("h2", "#ec9448", "#96521a"),
    ("h3", "#d9661c", "#bd6420"),
    ("h4", "#a53a0b", "#ee9140"),
    ("h5", "#5a1804", "#ffdcaa"),
    ("uncertain", "#b9a5d6", "#6d5a8c"),
    ("absent", "#e4e6ea", "#2c323b"),
];

/// Paper, ink, fainter ink, lines, and the ground between gaps.
const BASE: &[Fill] = &[
    ("paper", "#ffffff", "#14181d"),
    ("ink", "#1b1f24", "#e8ebef"),
    ("faint", "#57606a", "#a3acb8"),
    ("line", "#d0d7de", "#3a424d"),
    ("ground", "#f6f7f9", "#1c2128"),
    ("accent", "#0b5cad", "#7db8ff"),
];

/// Custom properties, `--read: #56b4e9;`, of the light or the dark half.
fn properties(dark: bool) -> String {
    let mut text = String::new();
    for (name, light, on_dark) in BASE.iter().chain(FILLS) {
        let colour = if dark { on_dark } else { light };
        // Writing to a string does not fail.
        let _ = write!(text, "--{name}:{colour};");
    }
    text
}

/// The colours of a page: those that the reader's system asks for, unless the page has a `data-theme`.
#[must_use]
pub fn page_css() -> String {
    let (light, dark) = (properties(false), properties(true));
    let mut text = format!(
        ":root{{color-scheme:light;{light}}}\n\
         @media (prefers-color-scheme:dark){{:root:not([data-theme=light])\
         {{color-scheme:dark;{dark}}}}}\n\
         :root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
    );
    for (name, ..) in FILLS {
        let _ = writeln!(
            text,
            ".f-{name}{{fill:var(--{name});background:var(--{name})}}"
        );
    }
    text
}

/// The styles of a picture in a file of its own. Plain colours: not every viewer knows custom
/// properties.
#[must_use]
pub fn file_css() -> String {
    let mut text = String::from(
        "text{font:12px system-ui,sans-serif}text.mono{font:11px ui-monospace,monospace}\n",
    );
    for dark in [false, true] {
        let pick = |fill: &Fill| if dark { fill.2 } else { fill.1 };
        let base = |name| BASE.iter().find(|fill| fill.0 == name).map_or("", pick);
        if dark {
            text.push_str("@media (prefers-color-scheme:dark){\n");
        }
        let (ink, line) = (base("ink"), base("line"));
        let _ = writeln!(
            text,
            "text{{fill:{ink}}}text.faint{{fill:{}}}line,path.edge{{stroke:{line};fill:none}}\
             .paper{{fill:{}}}.ground{{fill:{}}}",
            base("faint"),
            base("paper"),
            base("ground")
        );
        for fill in FILLS {
            let _ = write!(text, ".f-{}{{fill:{}}}", fill.0, pick(fill));
        }
        text.push_str(if dark { "}\n" } else { "\n" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance (WCAG 2.2).
    fn luminance(colour: &str) -> f64 {
        let channel = |at: usize| {
            let hex = colour.get(at..at + 2).unwrap_or("00");
            let value = f64::from(u8::from_str_radix(hex, 16).unwrap_or(0)) / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(one: &str, other: &str) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn text_can_be_read_on_paper_and_ground() {
        for half in [false, true] {
            let pick = |name: &str| {
                let fill = BASE.iter().find(|fill| fill.0 == name);
                fill.map_or("", |fill| if half { fill.2 } else { fill.1 })
            };
            for text in ["ink", "faint", "accent"] {
                for below in ["paper", "ground"] {
                    let found = contrast(pick(text), pick(below));
                    // WCAG 2.2, 1.4.3 (AA).
                    assert!(found >= 4.5, "{text} on {below}: {found}");
                }
            }
        }
    }

    #[test]
    fn heat_grows_away_from_the_paper() {
        for half in [false, true] {
            let pick = |fill: &Fill| if half { fill.2 } else { fill.1 };
            let steps = FILLS.iter().filter(|fill| fill.0.starts_with('h'));
            let found: Vec<_> = steps.map(|fill| luminance(pick(fill))).collect();
            assert_eq!(found.len(), 5);
            assert!(
                found.windows(2).all(|pair| pair.is_sorted() == half),
                "{found:?}"
            );
        }
    }
}
