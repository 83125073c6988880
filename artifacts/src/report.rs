//! A report: one self-contained HTML file.

/// One HTML page that needs nothing beside itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The page.
    pub html: String,
}
