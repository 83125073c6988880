//! Lines out of bytes that somebody else writes: bounded in length, and safe to show.

/// A longer line is cut here.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// Collects bytes into lines of at most 16 KiB.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    dropped: usize,
}

impl Lines {
    /// Takes more bytes and hands each finished line to `emit`, together with how many bytes of it were dropped.
    pub fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(&[u8], usize)) {
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            let (text, is_complete) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = MAX_LINE - self.line.len();
            let kept = &text[..text.len().min(room)];
            self.line.extend_from_slice(kept);
            self.dropped += text.len() - kept.len();
            if is_complete {
                self.emit(emit);
            }
        }
    }

    /// Hands over the last line, where it has no end.
    pub fn finish(&mut self, emit: &mut dyn FnMut(&[u8], usize)) {
        if !self.line.is_empty() {
            self.emit(emit);
        }
    }

    fn emit(&mut self, emit: &mut dyn FnMut(&[u8], usize)) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        // A progress bar draws over itself; what counts is what it shows last.
        let shown = line.rsplit(|&b| b == b'\r').next().unwrap_or_default();
        emit(shown, self.dropped);
        self.line.clear();
        self.dropped = 0;
    }
}

/// `line` as text without control characters, and with `***` in place of each of `secrets`.
pub fn shown(line: &[u8], secrets: &[String]) -> String {
    let mut text = String::from_utf8_lossy(line).into_owned();
    for secret in secrets {
        text = text.replace(secret.as_str(), "***");
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<(Vec<u8>, usize)> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut emit = |line: &[u8], dropped| all.push((line.to_vec(), dropped));
        for part in parts {
            lines.push(part, &mut emit);
        }
        lines.finish(&mut emit);
        all
    }

    #[test]
    fn a_line_of_any_length_takes_bounded_memory() {
        let flood = vec![b'x'; 3 * MAX_LINE];
        let found = lines(&[&flood, &flood, b"\nnext"]);

        assert_eq!(found[0].0.len(), MAX_LINE);
        assert_eq!(found[0].1, 5 * MAX_LINE);
        assert_eq!(found[1], (b"next".to_vec(), 0));
    }

    #[test]
    fn a_progress_bar_shows_its_last_state() {
        assert_eq!(lines(&[b"10%\r20%\r30%\r\n"])[0].0, b"30%");
    }

    #[test]
    fn escapes_and_secrets_do_not_reach_the_log() {
        let text = shown(b"\x1b[31mred\x07 \xff key=hunter22", &["hunter22".into()]);

        assert_eq!(text, "\\u{1b}[31mred\\u{7} \u{fffd} key=***");
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_does_not_matter(
            bytes in prop::collection::vec(prop::sample::select(vec![b'a', b'\n', b'\r', 0xff]), 0..200),
            cut in 0_usize..200,
        ) {
            let cut = cut.min(bytes.len());

            prop_assert_eq!(lines(&[&bytes[..cut], &bytes[cut..]]), lines(&[&bytes]));
        }
    }
}
