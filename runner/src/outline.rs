//! Which stages of a pipeline file were edited since the last run, seen without reading all of it.
//!
//! A run in which every stage has its outputs leaves, beside what [`crate::noop`] remembers, the digest of each stage's text
//! and who reads whom. When nothing has moved since but the pipeline file, and of that only the texts of some stages, or
//! parameters that only some stages use, then all other stages that do not lie below one of these stand as they did: what a
//! stage is follows from its own text, the text outside of stages, the stages it reads and the files that are tracked.
//! [`Outline::edited`] gives a text with the edited stages, what lies below them, and what those read; the rest is blank, so
//! that every place is where it was. That text is read, checked and run as any other.
//!
//! Only what is plain is taken for that: no matrices, views or awaited axes, one block of lines for each stage. Whatever is
//! out of the ordinary, or makes the smaller text be complained about, is left to a look at everything.
//!
//! Layout of the file, see [`crate::binary`]: name of the run whose results hold, of the run whose record lists all stages,
//! and of the pipeline (three parts), digest of the text outside of stages, number of parameters (u32), then for each: its
//! name (a part), flags (u8), digest of its line; number of stages (u32), then for each: its name (a part), digest of its
//! text, two lists of positions (u32 for the length, then u32 each): the stages that it reads and the parameters it uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    ops::Range,
    path::{Path, PathBuf},
};

use natron_artifacts::{Digest, Hasher};
use natron_cache::read_regular;

use crate::{
    Graph, InputEdge, LoadOptions, Workspace,
    binary::{Reader, Writer},
    code,
    graph::text_digest,
    history::{Flush, write_whole},
    noop,
};

const MAGIC: [u8; 8] = *b"NATline\x01";

/// Pipelines with fewer stages are read as quickly.
const FEWEST_STAGES: usize = 64;

/// When more than one stage in so many has to be looked at, all are.
const WORTH_ONE_IN: usize = 4;

/// What is known of the stages of a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The run whose results hold.
    pub(crate) run: String,
    /// The run whose record lists all stages: that of `run` says what is different.
    pub(crate) whole: String,
    pub(crate) pipeline: String,
    /// Of the text outside of stages.
    common: Digest,
    /// Those with lines of their own in the order of these; then others that stages use.
    params: Vec<Param>,
    /// In order of their texts.
    stages: Vec<Stage>,
}

/// A parameter of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Param {
    name: String,
    /// Of the line in `[params]` that gives its value, if it is one.
    line: Option<Digest>,
    /// Only stages use it, no other parameter.
    is_for_stages: bool,
}

const HAS_LINE: u8 = 1;
const IS_FOR_STAGES: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stage {
    name: String,
    text: Digest,
    /// Positions of the stages that it reads.
    reads: Vec<u32>,
    /// Positions of the parameters that it uses.
    params: Vec<u32>,
}

/// What an edited pipeline file asks for.
pub(crate) struct Edited {
    /// The whole text.
    text: String,
    /// The same with blanks in place of the stages that stand as they did.
    pub(crate) reduced: String,
    /// Positions of the stages whose texts are others, and the digests of these.
    texts: Vec<(usize, Digest)>,
    /// Positions of the parameters whose lines are others, and the digests of these.
    lines: Vec<(usize, Digest)>,
    /// The stages that are to be looked at.
    wanted: BTreeSet<String>,
    /// Those of them that are edited or lie below an edited one: the others stand as they did.
    others: BTreeSet<String>,
    /// The parameters that the others use.
    used_elsewhere: BTreeSet<String>,
}

impl Outline {
    /// The outline that a run left for the same invocation.
    pub(crate) fn read(workspace: &Workspace, invocation: &Digest) -> Option<Self> {
        Self::decode(&read_regular(&path(workspace, invocation)).ok()?)
    }

    /// Leaves the outline for the next run. A failure to do so costs speed, nothing else.
    pub(crate) fn write(&self, workspace: &Workspace, invocation: &Digest) {
        let _ = write_whole(&path(workspace, invocation), &self.encode(), Flush::Never);
    }

    /// The outline of the pipeline in `file`, of which `graph` was read and `run` has the results; nothing where it is not
    /// plain enough or too small.
    pub(crate) fn of(graph: &Graph, file: &Path, run: &str) -> Option<Self> {
        let is_plain = graph.instances.len() >= FEWEST_STAGES
            && graph.warnings.is_empty()
            && is_plain(graph, file);
        if !is_plain {
            return None;
        }
        let blocks = Blocks::of(&graph.text.text)?;
        let mut outline = Self {
            run: run.to_owned(),
            whole: run.to_owned(),
            pipeline: graph.name.clone(),
            common: blocks.common,
            params: Vec::new(),
            stages: Vec::with_capacity(blocks.stages.len()),
        };
        for (name, digest) in blocks.digests(&blocks.params) {
            outline.params.push(Param {
                name: name.to_owned(),
                line: Some(digest),
                is_for_stages: false,
            });
        }
        for (name, text) in blocks.digests(&blocks.stages) {
            outline.stages.push(Stage {
                name: name.to_owned(),
                text,
                reads: Vec::new(),
                params: Vec::new(),
            });
        }
        outline.connect(graph)?;
        (outline.stages.len() == graph.instances.len()).then_some(outline)
    }

    /// Notes what the instances of `graph` read and use; nothing if one of them is unknown.
    fn connect(&mut self, graph: &Graph) -> Option<()> {
        let names = self.positions();
        let positions: Option<Vec<usize>> = graph
            .instances
            .iter()
            .map(|instance| names.get(instance.name.as_str()).copied())
            .collect();
        let positions = positions?;
        for param in &mut self.params {
            param.is_for_stages = !graph.used_params[""].contains(&param.name);
        }
        for (instance, &position) in graph.instances.iter().zip(&positions) {
            let reads: BTreeSet<usize> = instance.producers().collect();
            let reads = reads.into_iter().map(|read| positions[read] as u32);
            self.stages[position].reads = reads.collect();
            self.stages[position].params.clear();
            for param in graph.used_params.get(&instance.name).into_iter().flatten() {
                let known = self.params.iter().position(|known| known.name == *param);
                let known = known.unwrap_or_else(|| {
                    self.params.push(Param {
                        name: param.clone(),
                        line: None,
                        is_for_stages: false,
                    });
                    self.params.len() - 1
                });
                self.stages[position].params.push(known as u32);
            }
        }
        Some(())
    }

    fn positions(&self) -> BTreeMap<String, usize> {
        let names = self.stages.iter().enumerate();
        names
            .map(|(position, stage)| (stage.name.clone(), position))
            .collect()
    }

    /// How many stages there are.
    pub(crate) fn len(&self) -> usize {
        self.stages.len()
    }

    /// Whether to look at so many stages takes less than to look at all.
    pub(crate) fn is_worth(&self, n_stages: usize) -> bool {
        n_stages <= self.stages.len() / WORTH_ONE_IN
    }

    /// What `text`, that of the pipeline file by now, asks for; nothing if all of it has to be looked at.
    pub(crate) fn edited(&self, text: String) -> Option<Edited> {
        let blocks = Blocks::of(&text)?;
        let lines = self.params.iter().filter(|param| param.line.is_some());
        let is_alike = blocks.common == self.common
            && (blocks.stages.iter().map(|(name, _)| *name))
                .eq(self.stages.iter().map(|stage| stage.name.as_str()))
            && (blocks.params.iter().map(|(name, _)| *name)).eq(lines.map(|param| &param.name));
        if !is_alike {
            return None;
        }
        let others = |pieces: &[Piece<'_>], is_as_it_was: &dyn Fn(usize, Digest) -> bool| {
            let digests = blocks.digests(pieces).map(|(_, digest)| digest).enumerate();
            let others = digests.filter(|(position, digest)| !is_as_it_was(*position, *digest));
            others.collect::<Vec<(usize, Digest)>>()
        };
        let texts = others(&blocks.stages, &|at, digest| self.stages[at].text == digest);
        let lines = others(&blocks.params, &|at, digest| {
            self.params[at].line == Some(digest)
        });
        if !lines.iter().all(|(at, _)| self.params[*at].is_for_stages) {
            return None;
        }
        let mut edited: BTreeSet<usize> = texts.iter().map(|(position, _)| *position).collect();
        let uses_another = |stage: &Stage| {
            let mut lines = lines.iter();
            lines.any(|(at, _)| stage.params.contains(&(*at as u32)))
        };
        edited.extend((0..self.stages.len()).filter(|at| uses_another(&self.stages[*at])));
        if edited.is_empty() || !self.is_worth(edited.len()) {
            return None;
        }
        let (others, wanted) = self.wanted(&edited, &text, &blocks);
        if !self.is_worth(wanted.len()) {
            return None;
        }
        let mut reduced = text.clone().into_bytes();
        let mut used_elsewhere = BTreeSet::new();
        for (position, (_, span)) in blocks.stages.iter().enumerate() {
            if wanted.contains(&position) {
                continue;
            }
            for byte in &mut reduced[span.clone()] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            let params = self.stages[position].params.iter();
            used_elsewhere.extend(params.map(|&at| self.params[at as usize].name.clone()));
        }
        Some(Edited {
            reduced: String::from_utf8(reduced).ok()?,
            wanted: self.named(wanted),
            others: self.named(others),
            used_elsewhere,
            texts,
            lines,
            text,
        })
    }

    fn named(&self, positions: BTreeSet<usize>) -> BTreeSet<String> {
        let names = positions.into_iter();
        names.map(|at| self.stages[at].name.clone()).collect()
    }

    /// The edited stages and all below them; these and all that they read.
    fn wanted(
        &self,
        edited: &BTreeSet<usize>,
        text: &str,
        blocks: &Blocks<'_>,
    ) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let mut readers = vec![Vec::new(); self.stages.len()];
        for (position, stage) in self.stages.iter().enumerate() {
            for &read in &stage.reads {
                readers[read as usize].push(position);
            }
        }
        let below = reached(edited.clone(), |position| readers[position].clone());
        let names = self.positions();
        let wanted = reached(below.clone(), |position| {
            let reads = self.stages[position].reads.iter();
            let mut reads: Vec<usize> = reads.map(|&read| read as usize).collect();
            if edited.contains(&position) {
                // What it reads by now is among the words of its text, or else a mistake of the smaller text.
                let text = &text[blocks.stages[position].1.clone()];
                let words = text.split(|letter| !is_bare(letter));
                reads.extend(words.filter_map(|word| names.get(word)));
            }
            reads
        });
        (below, wanted)
    }

    /// The outline after a run of `graph`, which was read of `edited`: `run` has the results of all.
    pub(crate) fn after(mut self, edited: &Edited, graph: &Graph, run: &str) -> Option<Self> {
        run.clone_into(&mut self.run);
        for (position, digest) in &edited.texts {
            self.stages[*position].text = *digest;
        }
        for (position, digest) in &edited.lines {
            self.params[*position].line = Some(*digest);
        }
        self.connect(graph)?;
        Some(self)
    }

    fn encode(&self) -> Vec<u8> {
        let mut file = Writer::new(MAGIC, 128 + 64 * self.stages.len());
        for text in [&self.run, &self.whole, &self.pipeline] {
            file.part(text.as_bytes());
        }
        file.digest(&self.common);
        file.u32(self.params.len() as u32);
        for param in &self.params {
            file.part(param.name.as_bytes());
            let has_line = if param.line.is_some() { HAS_LINE } else { 0 };
            let is_for_stages = if param.is_for_stages {
                IS_FOR_STAGES
            } else {
                0
            };
            file.u8(has_line | is_for_stages);
            file.digest(&param.line.unwrap_or(Digest::of(b"")));
        }
        file.u32(self.stages.len() as u32);
        for stage in &self.stages {
            file.part(stage.name.as_bytes());
            file.digest(&stage.text);
            for list in [&stage.reads, &stage.params] {
                file.u32(list.len() as u32);
                for position in list {
                    file.u32(*position);
                }
            }
        }
        file.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut file = Reader::open(bytes, MAGIC)?;
        let mut outline = Self {
            run: file.text()?,
            whole: file.text()?,
            pipeline: file.text()?,
            common: file.digest()?,
            params: Vec::new(),
            stages: Vec::new(),
        };
        for _ in 0..file.u32()? {
            let (name, flags, line) = (file.text()?, file.u8()?, file.digest()?);
            outline.params.push(Param {
                name,
                line: (flags & HAS_LINE != 0).then_some(line),
                is_for_stages: flags & IS_FOR_STAGES != 0,
            });
        }
        let n_stages = file.u32()?;
        for _ in 0..n_stages {
            let (name, text) = (file.text()?, file.digest()?);
            let mut list = |end: usize| -> Option<Vec<u32>> {
                let positions: Option<Vec<u32>> = (0..file.u32()?).map(|_| file.u32()).collect();
                positions.filter(|positions| positions.iter().all(|&at| (at as usize) < end))
            };
            outline.stages.push(Stage {
                name,
                text,
                reads: list(n_stages as usize)?,
                params: list(outline.params.len())?,
            });
        }
        file.is_empty().then_some(outline)
    }
}

impl Edited {
    /// How many stages are to be looked at.
    pub(crate) fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Those of them that may have other results than before.
    pub(crate) fn others(&self) -> &BTreeSet<String> {
        &self.others
    }

    /// Makes `graph`, which was read of the smaller text in `file`, one of the whole text. Nothing if it is other than
    /// expected, or if something has to be said of the whole.
    pub(crate) fn accept(
        &self,
        mut graph: Graph,
        file: &Path,
        options: &LoadOptions,
    ) -> Option<Graph> {
        let is_expected = graph.instances.len() == self.wanted.len()
            && graph
                .instances
                .iter()
                .all(|stage| self.wanted.contains(&stage.name))
            && is_plain(&graph, file)
            && graph.warnings.iter().all(|warning| {
                let name = warning
                    .primary()
                    .map(|label| &label.file.text[label.span.clone()]);
                warning.code == code::UNUSED_PARAMETER
                    && name.is_some_and(|name| self.used_elsewhere.contains(name))
            });
        graph.warnings.clear();
        graph.file_digest = Digest::of(self.text.as_bytes());
        graph.text_digest = text_digest(&self.text, options);
        is_expected.then_some(graph)
    }
}

/// Whether every stage is one instance of its own name, is shown nowhere, and does not read the pipeline file itself.
fn is_plain(graph: &Graph, file: &Path) -> bool {
    let Ok(file) = std::path::absolute(file) else {
        return false;
    };
    let is_file = |path: &PathBuf| path.as_os_str() == file.as_os_str();
    graph.awaited.is_empty()
        && graph.deferred.is_empty()
        && graph.instances.iter().all(|instance| {
            let mut inputs = instance.inputs.values().flatten();
            instance.name == instance.stage
                && instance.views.is_empty()
                && !instance.sources.values().any(is_file)
                && !inputs.any(|edge| matches!(edge, InputEdge::File { path } if is_file(path)))
        })
}

/// `from` and all that `next` leads to.
fn reached(from: BTreeSet<usize>, next: impl Fn(usize) -> Vec<usize>) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<usize> = from.into_iter().collect();
    while let Some(position) = open.pop() {
        if reached.insert(position) {
            open.extend(next(position));
        }
    }
    reached
}

fn path(workspace: &Workspace, invocation: &Digest) -> PathBuf {
    noop::path(workspace, invocation).with_extension(OsStr::new("stages"))
}

/// A name, and what of a text belongs to it.
type Piece<'t> = (&'t str, Range<usize>);

/// A text by its lines: those of each stage, those that give parameters their values, and the others.
struct Blocks<'t> {
    text: &'t str,
    stages: Vec<Piece<'t>>,
    params: Vec<Piece<'t>>,
    /// Of the other lines.
    common: Digest,
}

/// What a header begins.
#[derive(PartialEq)]
enum Header<'t> {
    /// A stage, or a table in it.
    Stage(&'t str),
    Params,
    Other,
}

impl<'t> Blocks<'t> {
    /// A stage begins with a header `[stages.NAME]`, and ends where the header of something else begins. Nothing where a line
    /// that looks like a header may be none, or the other way round; what is cut in the wrong place all the same does not
    /// parse without the stage that it was cut from.
    fn of(text: &'t str) -> Option<Self> {
        // Their lines may look like anything.
        if text.contains("\"\"\"") || text.contains("'''") {
            return None;
        }
        let mut stages: Vec<Piece<'t>> = Vec::new();
        let mut common = Hasher::new("natron text outside of stages v1");
        let mut params = 0..0;
        let (mut open, mut at) = (Header::Other, 0);
        for line in text.split_inclusive('\n') {
            let span = at..at + line.len();
            at = span.end;
            if let Some(header) = line.trim_start_matches(BLANKS).strip_prefix('[') {
                let header = Header::of(header)?;
                if let Header::Stage(name) = header
                    && open != header
                {
                    stages.push((name, span.start..span.start));
                }
                if header == Header::Params {
                    params = span.clone();
                }
                open = header;
            }
            match open {
                Header::Stage(_) => stages.last_mut()?.1.end = span.end,
                Header::Params => params.end = span.end,
                Header::Other => common = common.part(line.as_bytes()),
            }
        }
        let (lines, others) = lines_of_params(text, params);
        for other in others {
            common = common.part(other.as_bytes());
        }
        let names: BTreeSet<&str> = stages.iter().map(|(name, _)| *name).collect();
        (names.len() == stages.len()).then(|| Self {
            text,
            stages,
            params: lines,
            common: common.finish(),
        })
    }

    fn digests<'a>(
        &'a self,
        pieces: &'a [Piece<'t>],
    ) -> impl Iterator<Item = (&'t str, Digest)> + 'a {
        let bytes = self.text.as_bytes();
        let digest = |span: &Range<usize>| Digest::of(&bytes[span.clone()]);
        pieces.iter().map(move |(name, span)| (*name, digest(span)))
    }
}

/// The lines of `[params]`, which takes `span` of the text, that give one parameter its value, and the other lines; all are
/// others when one is neither that nor empty.
fn lines_of_params(text: &str, span: Range<usize>) -> (Vec<Piece<'_>>, Vec<&str>) {
    let mut at = span.start;
    let (mut params, mut others) = (Vec::new(), Vec::new());
    let all = text[span].split_inclusive('\n');
    for (nth, line) in all.clone().enumerate() {
        let span = at..at + line.len();
        at = span.end;
        let words = line.trim_start_matches(BLANKS);
        let name = words
            .split(|letter| !is_bare(letter))
            .next()
            .unwrap_or_default();
        let value = words[name.len()..].trim_start_matches(BLANKS);
        if !name.is_empty() && value.starts_with('=') {
            params.push((name, span));
        } else if nth == 0 || is_end_of_line(words) {
            others.push(line);
        } else {
            return (Vec::new(), all.collect());
        }
    }
    (params, others)
}

impl<'t> Header<'t> {
    /// What the header begins that goes on with `header` after the bracket. Nothing for what is no header of bare words.
    fn of(header: &'t str) -> Option<Self> {
        let (path, rest) = header.split_once(']')?;
        let is_word = |word: &str| !word.is_empty() && word.chars().all(is_bare);
        if !is_end_of_line(rest) || !path.split('.').all(is_word) {
            return None;
        }
        let mut words = path.split('.');
        Some(match (words.next(), words.next()) {
            (Some("stages"), Some(name)) => Self::Stage(name),
            (Some("params"), None) => Self::Params,
            _ => Self::Other,
        })
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// Whether nothing but a comment follows.
fn is_end_of_line(rest: &str) -> bool {
    let rest = rest.trim_start_matches(BLANKS);
    rest.starts_with('#') || rest.trim_end_matches(['\r', '\n']).is_empty()
}

fn is_bare(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Option<(Vec<&str>, Vec<&str>)> {
        let blocks = Blocks::of(text)?;
        Some((
            blocks.stages.iter().map(|(name, _)| *name).collect(),
            blocks.params.iter().map(|(name, _)| *name).collect(),
        ))
    }

    const TEXT: &str = "\
# a pipeline
[pipeline]
name = 'p'
[params] # all of them
a = 1

  b-c = \"${params.a}\" # a comment
[stages.x]
uses = 'k'
with.list = [
  1, # [stages.z]
]
  [stages.x.resources] # its own
threads = 1
[profiles.quick.params]
a = 2
[stages.y-1]
uses = 'k'";

    #[test]
    fn a_text_is_cut_at_its_headers() {
        let blocks = Blocks::of(TEXT).unwrap();

        assert_eq!(names(TEXT).unwrap(), (vec!["x", "y-1"], vec!["a", "b-c"]));
        let pieces = [&blocks.stages[..], &blocks.params[..]].concat();
        let pieces: Vec<&str> = pieces.into_iter().map(|(_, span)| &TEXT[span]).collect();
        assert!(pieces[0].starts_with("[stages.x]\n") && pieces[0].ends_with("threads = 1\n"));
        assert_eq!(
            pieces[1..],
            [
                "[stages.y-1]\nuses = 'k'",
                "a = 1\n",
                "  b-c = \"${params.a}\" # a comment\n"
            ]
        );
        for (from, to, is_common) in [
            ("# a pipeline", "# my pipeline", true),
            ("# all of them", "# some of them", true),
            ("a = 2", "a = 3", true),
            ("a = 1", "a = 3", false),
            ("threads = 1", "threads = 2", false),
        ] {
            let other = TEXT.replace(from, to);
            let other = Blocks::of(&other).unwrap().common;
            assert_eq!(other != blocks.common, is_common, "{to}");
        }
    }

    #[test]
    fn a_text_with_lines_that_may_be_headers_or_not_is_left_alone() {
        for line in [
            "[stages.\"z\"]",
            "[ stages.z ]",
            "[[stages.z]]",
            "[stages.z] x",
            "[1, 2],",
            "with.text = \"\"\"",
            "with.text = '''",
            "[stages.y]\n[stages.x]",
        ] {
            let text = TEXT.replace("threads = 1", line);
            assert_eq!(names(&text), None, "{line}");
        }
        for line in ["c.d = 1", "c = [\n1,\n]", "\"c\" = 1", "c"] {
            let text = TEXT.replace("a = 1", line);
            assert_eq!(names(&text).unwrap().1, [""; 0], "{line}");
        }
    }

    #[test]
    fn what_is_read_is_what_was_written_and_damage_is_nothing() {
        let outline = Outline {
            run: "now".into(),
            whole: "then".into(),
            pipeline: "p".into(),
            common: Digest::of(b"common"),
            params: vec![
                Param {
                    name: "a".into(),
                    line: Some(Digest::of(b"a = 1")),
                    is_for_stages: true,
                },
                Param {
                    name: "b".into(),
                    line: None,
                    is_for_stages: false,
                },
            ],
            stages: vec![
                Stage {
                    name: "x".into(),
                    text: Digest::of(b"x"),
                    reads: Vec::new(),
                    params: vec![1, 0],
                },
                Stage {
                    name: "y".into(),
                    text: Digest::of(b"y"),
                    reads: vec![0],
                    params: Vec::new(),
                },
            ],
        };
        let bytes = outline.encode();
        assert_eq!(Outline::decode(&bytes).unwrap(), outline);
        for i in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[i] ^= 1;
            assert_eq!(Outline::decode(&damaged), None, "byte {i}");
            assert_eq!(Outline::decode(&bytes[..i]), None, "cut at {i}");
        }
        let mut beyond = outline;
        beyond.stages[1].reads = vec![2];
        assert_eq!(Outline::decode(&beyond.encode()), None);
    }
}
