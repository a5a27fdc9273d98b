//! A small writer of SVG: elements with escaped text, coordinates with one decimal.
//!
//! Colours are CSS classes, so that a chart follows the page into dark mode and onto paper.

use std::fmt::{Display, Write};

/// An SVG drawing in the making.
pub(super) struct Svg {
    text: String,
    width: f64,
    height: f64,
}

/// Where text sits relative to its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A rectangle, in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Svg {
        Svg { text: String::new(), width, height }
    }

    /// A line; `class` gives its colour.
    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = write!(
            self.text,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    /// A rectangle that says `tip` when a pointer rests on it.
    pub(super) fn rect(&mut self, class: &str, rect: Rect, tip: &str) {
        let Rect { x, y, width, height } = rect;
        let _ = write!(
            self.text,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{}</title></rect>"#,
            escaped(tip)
        );
    }

    /// A line through many points.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)], tip: &str) {
        let mut data = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(data, "{}{x:.1},{y:.1}", if index == 0 { "M" } else { "L" });
        }
        let _ = write!(
            self.text,
            r#"<path class="{class}" d="{data}"><title>{}</title></path>"#,
            escaped(tip)
        );
    }

    /// Text at a point.
    pub(super) fn text(
        &mut self,
        class: &str,
        (x, y): (f64, f64),
        anchor: Anchor,
        text: impl Display,
    ) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(&text.to_string());
        let _ = write!(
            self.text,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    /// The whole drawing; `title` and `description` are its text alternative.
    pub(super) fn finish(self, title: &str, description: &str) -> String {
        let (width, height) = (self.width, self.height);
        let (title, description) = (escaped(title), escaped(description));
        // A screen reader reads the label and none of the numbers on the axes.
        format!(
            r#"<svg role="img" aria-label="{title}. {description}" viewBox="0 0 {width:.0} {height:.0}" xmlns="http://www.w3.org/2000/svg"><title>{title}</title><desc>{description}</desc>{}</svg>"#,
            self.text
        )
    }
}

/// Text without markup; control characters are not allowed in XML.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_text_from_outside_is_escaped_everywhere() {
        let mut svg = Svg::new(10.0, 10.0);
        let evil = "</title><script>\"x\" & 'y'\u{1}";
        svg.text("a", (1.0, 2.0), Anchor::Middle, evil);
        svg.rect("b", Rect { x: 0.0, y: 0.0, width: 1.0, height: 1.0 }, evil);
        svg.path("c", &[(0.0, 0.0), (1.0, 1.0)], evil);
        let text = svg.finish(evil, evil);
        assert!(!text.contains("<script") && !text.contains('\u{1}'), "{text}");
        assert_eq!(text.matches("&lt;script&gt;").count(), 7);
    }
}
