//! Arguments with `${inputs.NAME}` and the like in them.

/// What stands in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// Path of an input, several when it gathers.
    Input(String),
    /// Path of an output.
    Output(String),
    /// The stage's seed.
    Seed,
    /// The stage's share of threads.
    Threads,
    /// The checkpoint folder.
    Checkpoints,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Reference(Reference),
}

/// One argument.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

impl Template {
    /// The argument `text`. Braces with anything else in them are text.
    pub(super) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let known = rest[start + 2..].find('}').and_then(|length| {
                let name = &rest[start + 2..start + 2 + length];
                Some((reference(name)?, start + length + 3))
            });
            let end = known.as_ref().map_or(start + 2, |&(_, end)| end);
            if let Some((reference, _)) = known {
                plain.push_str(&rest[..start]);
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Reference(reference));
            } else {
                plain.push_str(&rest[..end]);
            }
            rest = &rest[end..];
        }
        plain.push_str(rest);
        if !plain.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Self(pieces)
    }

    /// What it refers to.
    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Reference(reference) => Some(reference),
            Piece::Text(_) => None,
        })
    }

    /// Whether it is a reference and nothing else.
    pub(super) fn is_one_reference(&self) -> bool {
        matches!(self.0[..], [Piece::Reference(_)])
    }

    /// The arguments that it becomes: one, or as many as the one reference has values.
    pub(super) fn fill(&self, values: &dyn Fn(&Reference) -> Vec<String>) -> Vec<String> {
        if let [Piece::Reference(reference)] = &self.0[..] {
            return values(reference);
        }
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Reference(reference) => values(reference).join(" "),
        });
        vec![pieces.collect()]
    }
}

fn reference(name: &str) -> Option<Reference> {
    Some(match name.split_once('.') {
        Some(("inputs", port)) => Reference::Input(port.to_owned()),
        Some(("outputs", port)) => Reference::Output(port.to_owned()),
        None if name == "seed" => Reference::Seed,
        None if name == "threads" => Reference::Threads,
        None if name == "checkpoints" => Reference::Checkpoints,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Vec<String> {
        Template::parse(text).fill(&|reference| match reference {
            Reference::Input(port) => vec![format!("inputs/{port}/0"), format!("inputs/{port}/1")],
            Reference::Output(port) => vec![format!("outputs/{port}")],
            Reference::Seed => vec!["42".into()],
            Reference::Threads => vec!["2".into()],
            Reference::Checkpoints => vec!["/ckpt".into()],
        })
    }

    #[test]
    fn paths_take_the_place_of_names() {
        assert_eq!(filled("--out=${outputs.x},${seed}"), ["--out=outputs/x,42"]);
        assert_eq!(filled("${threads}"), ["2"]);
        assert_eq!(filled("plain"), ["plain"]);
        assert_eq!(filled(""), [""]);
    }

    #[test]
    fn a_gathered_input_becomes_one_argument_for_each() {
        assert_eq!(filled("${inputs.x}"), ["inputs/x/0", "inputs/x/1"]);
    }

    #[test]
    fn the_shells_own_variables_stay() {
        for text in ["echo ${HOME} $1 ${", "${inputs", "$${}", "${a.b}"] {
            assert_eq!(filled(text), [text]);
        }
        assert_eq!(filled("${HOME}/${outputs.x}"), ["${HOME}/outputs/x"]);
    }
}
