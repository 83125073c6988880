//! A verification as a `JUnit` report.

use std::fmt::Write as _;

use super::{Verdict, Verification};

impl Verification {
    /// The result as a `JUnit` report, for continuous integration: a test for each stage, with failures, errors (no result,
    /// or the stage failed), what was left out as skipped, and times.
    pub fn junit(&self) -> String {
        let count = |wanted: fn(&Verdict) -> bool| {
            let verdicts = self.stages.iter().map(|s| &s.verdict);
            verdicts.filter(|v| wanted(v)).count()
        };
        let failures = count(|v| matches!(v, Verdict::Differs { .. }));
        let errors = count(|v| matches!(v, Verdict::Failed { .. } | Verdict::NotCached));
        let skipped = self.left_out.len();
        let tests = self.stages.len() + skipped;
        let seconds: f64 = self.stages.iter().map(|s| s.seconds).sum();
        let pipeline = escaped(&self.pipeline);
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"natron verify\" tests=\"{tests}\" failures=\"{failures}\" \
             errors=\"{errors}\" skipped=\"{skipped}\" time=\"{seconds:.3}\">\n  <testsuite name=\"natron verify {pipeline}\" \
             tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{seconds:.3}\" \
             hostname=\"{}\">\n    <properties>\n",
            escaped(&self.here.host)
        );
        let changed: Vec<&str> = self.perturb.iter().map(|p| p.name()).collect();
        for (name, value) in [
            ("seed", self.seed.to_string()),
            ("changed", changed.join(",")),
            ("processor", self.here.processor.clone()),
            ("natron", self.here.natron.clone()),
        ] {
            let value = escaped(&value);
            let _ = writeln!(text, "      <property name=\"{name}\" value=\"{value}\"/>");
        }
        text.push_str("    </properties>\n");
        for stage in &self.stages {
            let (name, seconds) = (escaped(&stage.stage), stage.seconds);
            let _ = write!(
                text,
                "    <testcase classname=\"{pipeline}\" name=\"{name}\" time=\"{seconds:.3}\""
            );
            let _ = match &stage.verdict {
                Verdict::Confirmed { .. } => writeln!(text, "/>"),
                Verdict::Differs {
                    output, divergence, ..
                } => {
                    let message = escaped(&format!("output {output}: {divergence}"));
                    writeln!(
                        text,
                        "><failure type=\"differs\" message=\"{message}\"/></testcase>"
                    )
                }
                Verdict::Failed { message, .. } => {
                    let message = escaped(message);
                    writeln!(
                        text,
                        "><error type=\"failed\" message=\"{message}\"/></testcase>"
                    )
                }
                Verdict::NotCached => {
                    writeln!(
                        text,
                        "><error type=\"not-cached\" message=\"no result to compare with\"/></testcase>"
                    )
                }
            };
        }
        for left in &self.left_out {
            let (name, why) = (escaped(&left.stage), escaped(&left.why));
            let _ = writeln!(
                text,
                "    <testcase classname=\"{pipeline}\" name=\"{name}\" time=\"0\"><skipped message=\"{why}\"/></testcase>"
            );
        }
        text.push_str("  </testsuite>\n</testsuites>\n");
        text
    }
}

/// `text` for an attribute. What XML cannot hold at all, as most control characters, becomes a replacement character.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_xml_forbids_stays() {
        let odd = "a<b>&\"c\"'\u{0}\u{1b}[31m\n\t\u{ffff}é🦀";

        assert_eq!(
            escaped(odd),
            "a&lt;b&gt;&amp;&quot;c&quot;&apos;\u{fffd}\u{fffd}[31m&#10;&#9;\u{fffd}é🦀"
        );
    }
}
