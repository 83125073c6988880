//! Code fingerprints: for each stage kind one digest of all our code that defines its results.
//!
//! The digest of a kind covers the module of its type and, transitively, every module of `stages`, `kernels` and
//! `artifacts` that is named there, the `.cu` files and included texts of those modules, and the locked versions of the
//! crates in [`PACKAGES`] that they name. Of a module the tokens count: neither comments, docs and layout, nor lints,
//! nor what is there for tests only, nor the order of imports. So changing an indicator gives every kind that computes it
//! a new fingerprint, and changing the command line gives none.
//!
//! How a name finds its module:
//!
//! - Paths are followed through modules and re-exports to the module that defines the item. What leaves our crates ends
//!   there. A path whose item cannot be found reaches the module it leads to, at the root of a crate the whole crate;
//!   a glob reaches the module and all below it.
//! - A macro is found by its name alone, anywhere in the crate.
//! - A module with an `impl` for a type or trait of another module belongs to that other module: methods are not named
//!   by paths.
//!
//! Nothing depends on the order of files, on line endings or on where the sources lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, ImplItem, Item, Meta, Stmt, TraitItem, UseTree, fold::Fold};

/// Crates of others whose version is part of the fingerprint of whatever names them: their code decides bits.
const PACKAGES: [(&str, &[&str]); 5] = [
    ("arrow", &["arrow"]),
    ("candle_core", &["candle-core", "gemm", "libm"]),
    ("gemm", &["gemm"]),
    ("libm", &["libm"]),
    ("parquet", &["parquet", "arrow"]),
];

/// A chain of re-exports longer than this is a circle.
const MAX_REEXPORTS: u8 = 16;

/// Attributes without influence on results.
const SILENT_ATTRIBUTES: [&str; 7] = [
    "doc", "allow", "expect", "warn", "deny", "forbid", "must_use",
];

/// One of our crates.
pub(crate) struct Root {
    /// Its name in paths.
    name: String,
    /// Where its `lib.rs` lies.
    directory: PathBuf,
}

impl Root {
    /// The crate called `name` in paths, with its `lib.rs` in `directory`.
    pub(crate) fn new(name: &str, directory: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            directory: directory.into(),
        }
    }
}

/// What fingerprints are made from.
pub(crate) struct Sources {
    /// Name of the crate that registers the kinds.
    pub(crate) stages: &'static str,
    /// All our crates that can define results.
    pub(crate) roots: Vec<Root>,
    /// The lock file.
    pub(crate) lock: PathBuf,
}

/// The fingerprint of one kind.
pub(crate) struct Fingerprint {
    /// 64 hexadecimal digits.
    pub(crate) digest: String,
    /// The modules that it covers, and the versions.
    pub(crate) covers: Vec<String>,
}

/// The fingerprint of every kind that is registered as `register::<path::Type>("kind", fingerprint("kind"))`.
///
/// # Errors
///
/// A file that cannot be read or parsed, a registration in any other form, a type that is not ours.
pub(crate) fn fingerprints(sources: &Sources) -> Result<BTreeMap<String, Fingerprint>, String> {
    let lock = fs::read_to_string(&sources.lock)
        .map_err(|e| format!("cannot read `{}`: {e}", sources.lock.display()))?;
    let versions = locked_versions(&lock);
    let code = Code::read(&sources.roots)?;
    let mut kinds = BTreeMap::new();
    for (id, module) in code.modules.iter().enumerate() {
        if module.path[0] != sources.stages {
            continue;
        }
        for registration in &module.registrations {
            let registration = registration.as_ref().map_err(Clone::clone)?;
            let kind = &registration.kind;
            let mut start = Reached::default();
            code.resolve(id, &registration.type_path, MAX_REEXPORTS, &mut start);
            if start.modules.is_empty() {
                return Err(format!(
                    "stage kind `{kind}`: no module of ours defines `{}`",
                    registration.type_path.join("::")
                ));
            }
            let shown = registration.type_path.join("::");
            start.links.insert(format!("kind {kind} = {shown}"));
            let fingerprint = code.fingerprint(start, &versions)?;
            if kinds.insert(kind.clone(), fingerprint).is_some() {
                return Err(format!("stage kind `{kind}` is registered twice"));
            }
        }
    }
    Ok(kinds)
}

/// The Rust source of `fn fingerprint(kind: &str) -> &'static str`, or of the error that stops the build.
pub(crate) fn render(fingerprints: &Result<BTreeMap<String, Fingerprint>, String>) -> String {
    let mut text = String::new();
    let mut arms = String::new();
    match fingerprints {
        // An error of the build script would hide the compiler's own, better message about the same file.
        Err(message) => {
            let message = format!("code fingerprints: {message}");
            let _ = writeln!(text, "compile_error!({message:?});");
        }
        Ok(kinds) => {
            for (kind, fingerprint) in kinds {
                for line in &fingerprint.covers {
                    let _ = writeln!(arms, "        // {line}");
                }
                let _ = writeln!(arms, "        {kind:?} => {:?},", fingerprint.digest);
            }
        }
    }
    let _ = write!(
        text,
        "/// Fingerprint of all the code that defines the results of the stage kind `kind`.\n\
         #[allow(dead_code, clippy::match_single_binding, clippy::match_same_arms, reason = \"generated\")]\n\
         pub(crate) fn fingerprint(kind: &str) -> &'static str {{\n    match kind {{\n{arms}        \
         _ => unreachable!(\"the build reads every registration, and `{{kind}}` is none\"),\n    }}\n}}\n"
    );
    text
}

/// `name version` of every package of the lock file, by name.
fn locked_versions(lock: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        let value = |key: &str| {
            line.strip_prefix(key)?
                .strip_prefix(" = \"")?
                .strip_suffix('"')
        };
        if let Some(found) = value("name") {
            name = found;
        } else if let Some(version) = value("version") {
            versions
                .entry(name.to_owned())
                .or_default()
                .insert(version.to_owned());
        }
    }
    versions
}

struct Registration {
    kind: String,
    type_path: Vec<String>,
}

/// A module: a file, or a `mod name { .. }` in one.
#[derive(Default)]
struct Module {
    /// Crate and names down to it.
    path: Vec<String>,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// Modules written inside this one's file: part of it.
    inline: Vec<usize>,
    /// Names of items defined here.
    items: BTreeSet<String>,
    /// Paths by the name that they are imported as.
    imports: BTreeMap<String, BTreeSet<Vec<String>>>,
    globs: BTreeSet<Vec<String>>,
    /// Paths of two or more parts that occur in the code.
    paths: BTreeSet<Vec<String>>,
    macros_defined: BTreeSet<String>,
    macros_called: BTreeSet<String>,
    /// For each `impl`: the paths in its header, that of the type itself first.
    impls: Vec<Vec<Vec<String>>>,
    /// Names of [`PACKAGES`] that occur.
    packages: BTreeSet<&'static str>,
    registrations: Vec<Result<Registration, String>>,
    digest: String,
}

/// What a path leads to.
#[derive(Default)]
struct Reached {
    modules: BTreeSet<usize>,
    /// The re-exports passed on the way: whether a name means `a::f` or `a::g` shows nowhere else.
    links: BTreeSet<String>,
}

/// All modules of our crates.
struct Code {
    modules: Vec<Module>,
    roots: BTreeMap<String, usize>,
}

impl Code {
    fn read(roots: &[Root]) -> Result<Self, String> {
        let mut code = Self {
            modules: Vec::new(),
            roots: BTreeMap::new(),
        };
        for root in roots {
            let id = code.modules.len();
            code.roots.insert(root.name.clone(), id);
            let place = Place {
                file: root.directory.join("lib.rs"),
                children: root.directory.clone(),
            };
            code.add_file(vec![root.name.clone()], None, &place)?;
        }
        Ok(code)
    }

    fn add_file(
        &mut self,
        path: Vec<String>,
        parent: Option<usize>,
        place: &Place,
    ) -> Result<Option<usize>, String> {
        let name = place.file.display();
        let text = fs::read_to_string(&place.file)
            .map_err(|e| format!("cannot read `{name}`: {e}"))?
            .replace("\r\n", "\n");
        let file = syn::parse_file(&text).map_err(|e| format!("cannot parse `{name}`: {e}"))?;
        if is_for_tests(&file.attrs) {
            return Ok(None);
        }
        let sibling = place.file.with_extension("cu");
        let kernel = sibling.is_file().then_some(sibling);
        self.add_module(path, parent, file.items, place, kernel)
            .map(Some)
    }

    fn add_module(
        &mut self,
        path: Vec<String>,
        parent: Option<usize>,
        items: Vec<Item>,
        place: &Place,
        kernel: Option<PathBuf>,
    ) -> Result<usize, String> {
        let id = self.modules.len();
        self.modules.push(Module {
            path: path.clone(),
            parent,
            ..Module::default()
        });
        let mut names = Names {
            files: kernel.into_iter().collect(),
            ..Names::default()
        };
        let mut module = Module::default();
        let mut hasher = blake3::Hasher::new();
        let mut cleaner = Cleaner::default();
        for item in items {
            if is_for_tests(attributes(&item)) {
                continue;
            }
            match item {
                Item::Mod(child) => {
                    let name = text(&child.ident);
                    let path = [path.clone(), vec![name.clone()]].concat();
                    if child.attrs.iter().any(|a| a.path().is_ident("path")) {
                        let path = path.join("::");
                        return Err(format!(
                            "module `{path}` has a `path` attribute; put it where its name says"
                        ));
                    }
                    let child = match child.content {
                        Some((_, items)) => {
                            let place = Place {
                                file: place.file.clone(),
                                children: place.children.join(&name),
                            };
                            let id = self.add_module(path, Some(id), items, &place, None)?;
                            module.inline.push(id);
                            Some(id)
                        }
                        None => self.add_file(path, Some(id), &place.child(&name))?,
                    };
                    module.children.extend(child.map(|child| (name, child)));
                }
                Item::Use(item) => cleaner.uses.push(item.tree),
                item => {
                    module.items.extend(defined_name(&item));
                    if let Item::Macro(item) = &item {
                        module.macros_defined.extend(item.ident.as_ref().map(text));
                    }
                    if let Item::Impl(item) = &item {
                        module.impls.push(header_paths(item));
                    }
                    let tokens = cleaner.fold_item(item).to_token_stream();
                    names.scan(tokens.clone());
                    feed(&mut hasher, tokens, true);
                }
            }
        }
        for tree in &cleaner.uses {
            collect_imports(tree, &mut Vec::new(), &mut module);
        }
        for (name, paths) in &module.imports {
            part(&mut hasher, name);
            for path in paths {
                part(&mut hasher, &path.join("::"));
            }
        }
        for path in &module.globs {
            part(&mut hasher, &path.join("::"));
        }
        for path in module.imports.values().flatten().chain(&module.globs) {
            names.package(path);
        }
        let directory = place.file.parent().unwrap_or(Path::new(""));
        names
            .files
            .extend(names.included.iter().map(|name| directory.join(name)));
        for file in &names.files {
            let text =
                fs::read(file).map_err(|e| format!("cannot read `{}`: {e}", file.display()))?;
            part(
                &mut hasher,
                &String::from_utf8_lossy(&text).replace("\r\n", "\n"),
            );
        }
        self.modules[id] = Module {
            path,
            parent,
            paths: names.paths,
            macros_called: names.macros,
            packages: names.packages,
            registrations: names.registrations,
            digest: hasher.finalize().to_hex().to_string(),
            ..module
        };
        Ok(id)
    }

    /// Adds to `reached` where `path`, written in module `from`, leads. Nothing when it leaves our crates.
    fn resolve(&self, from: usize, path: &[String], fuel: u8, reached: &mut Reached) {
        let Some(first) = path.first() else { return };
        let module = &self.modules[from];
        match first.as_str() {
            "crate" => self.walk(self.roots[&module.path[0]], &path[1..], fuel, reached),
            "self" | "super" => self.walk(from, path, fuel, reached),
            name if module.children.contains_key(name)
                || module.items.contains(name)
                || module.imports.contains_key(name) =>
            {
                self.walk(from, path, fuel, reached);
            }
            name => {
                if let Some(&root) = self.roots.get(name) {
                    self.walk(root, &path[1..], fuel, reached);
                }
            }
        }
    }

    fn walk(&self, mut at: usize, mut path: &[String], fuel: u8, reached: &mut Reached) {
        while let Some(name) = path.first() {
            let module = &self.modules[at];
            // A module and a function may share their name.
            if module.items.contains(name) {
                reached.modules.insert(at);
            }
            if name == "super" {
                at = module.parent.unwrap_or(at);
            } else if let Some(&child) = module.children.get(name) {
                at = child;
            } else if name != "self" {
                self.leave_modules(at, path, fuel, reached);
                return;
            }
            path = &path[1..];
        }
        reached.modules.insert(at);
    }

    /// `path` starts with something in module `at` that is not a module.
    fn leave_modules(&self, at: usize, path: &[String], fuel: u8, reached: &mut Reached) {
        let module = &self.modules[at];
        let name = &path[0];
        if module.items.contains(name) {
            return;
        }
        if let Some(targets) = module.imports.get(name).filter(|_| fuel > 0) {
            for target in targets {
                let link = format!("{}::{name} = {}", module.path.join("::"), target.join("::"));
                reached.links.insert(link);
                let full = [target, &path[1..]].concat();
                if full.first() != Some(name) {
                    self.resolve(at, &full, fuel - 1, reached);
                } else if let Some(&root) = self.roots.get(name) {
                    // `use natron_kernels::{self, ..}`.
                    self.walk(root, &full[1..], fuel - 1, reached);
                }
            }
        } else if module.parent.is_none() {
            reached.modules.extend(self.below(at));
        } else {
            reached.modules.insert(at);
        }
    }

    /// The module and all below it.
    fn below(&self, id: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::from([id]);
        for &child in self.modules[id].children.values() {
            all.extend(self.below(child));
        }
        all
    }

    /// What module `id` names.
    fn reached_from(&self, id: usize) -> Reached {
        let module = &self.modules[id];
        let mut reached = Reached::default();
        for path in module.imports.values().flatten().chain(&module.paths) {
            self.resolve(id, path, MAX_REEXPORTS, &mut reached);
        }
        for path in &module.globs {
            let mut target = Reached::default();
            self.resolve(id, path, MAX_REEXPORTS, &mut target);
            reached.links.extend(target.links);
            for id in target.modules {
                reached.modules.extend(self.below(id));
            }
        }
        for (other, candidate) in self.modules.iter().enumerate() {
            let defines = |name: &String| candidate.macros_defined.contains(name);
            if candidate.path[0] == module.path[0] && module.macros_called.iter().any(defines) {
                reached.modules.insert(other);
            }
        }
        reached.modules.extend(&module.inline);
        reached
    }

    /// For each module the others that implement something for its types or traits.
    fn extensions(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut extensions: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (id, module) in self.modules.iter().enumerate() {
            for header in &module.impls {
                // The type decides when it is of this crate; else the crate owns the trait or one of the arguments.
                for path in header {
                    let mut reached = Reached::default();
                    self.resolve(id, path, MAX_REEXPORTS, &mut reached);
                    reached
                        .modules
                        .retain(|&m| self.modules[m].path[0] == module.path[0]);
                    if !reached.modules.is_empty() {
                        for target in reached.modules {
                            extensions.entry(target).or_default().insert(id);
                        }
                        break;
                    }
                }
            }
        }
        extensions
    }

    fn fingerprint(
        &self,
        start: Reached,
        versions: &BTreeMap<String, BTreeSet<String>>,
    ) -> Result<Fingerprint, String> {
        let extensions = self.extensions();
        let mut all = Reached {
            modules: BTreeSet::new(),
            links: start.links,
        };
        let mut open: Vec<usize> = start.modules.into_iter().collect();
        while let Some(id) = open.pop() {
            if all.modules.insert(id) {
                let next = self.reached_from(id);
                all.links.extend(next.links);
                open.extend(next.modules);
                open.extend(extensions.get(&id).into_iter().flatten());
            }
        }
        let mut covers = BTreeSet::new();
        let mut lines = all.links;
        for &id in &all.modules {
            let module = &self.modules[id];
            let path = module.path.join("::");
            lines.insert(format!("{path} {}", module.digest));
            covers.insert(path);
            for &(name, packages) in PACKAGES.iter().filter(|(n, _)| module.packages.contains(n)) {
                for &package in packages {
                    let locked = versions.get(package).ok_or_else(|| {
                        format!(
                            "the lock file has no package `{package}`, which `{name}` stands for"
                        )
                    })?;
                    let version = locked
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(", ");
                    lines.insert(format!("{package} {version}"));
                    covers.insert(format!("{package} {version}"));
                }
            }
        }
        let mut hasher = blake3::Hasher::new_derive_key("natron code fingerprint v1");
        for line in &lines {
            part(&mut hasher, line);
        }
        Ok(Fingerprint {
            digest: hasher.finalize().to_hex().to_string(),
            covers: covers.into_iter().collect(),
        })
    }
}

/// Where a module is written, and where the files of the modules below it lie.
struct Place {
    file: PathBuf,
    children: PathBuf,
}

impl Place {
    fn child(&self, name: &str) -> Self {
        let children = self.children.join(name);
        let nested = children.join("mod.rs");
        let file = if nested.is_file() {
            nested
        } else {
            self.children.join(format!("{name}.rs"))
        };
        Self { file, children }
    }
}

/// Takes out what is there for tests, and `use` declarations inside of functions, which it keeps.
#[derive(Default)]
struct Cleaner {
    uses: Vec<UseTree>,
}

impl Fold for Cleaner {
    fn fold_item_impl(&mut self, mut item: syn::ItemImpl) -> syn::ItemImpl {
        item.items.retain(|item| {
            !is_for_tests(match item {
                ImplItem::Const(item) => &item.attrs,
                ImplItem::Fn(item) => &item.attrs,
                ImplItem::Type(item) => &item.attrs,
                ImplItem::Macro(item) => &item.attrs,
                _ => &[],
            })
        });
        syn::fold::fold_item_impl(self, item)
    }

    fn fold_item_trait(&mut self, mut item: syn::ItemTrait) -> syn::ItemTrait {
        item.items.retain(|item| {
            !is_for_tests(match item {
                TraitItem::Const(item) => &item.attrs,
                TraitItem::Fn(item) => &item.attrs,
                TraitItem::Type(item) => &item.attrs,
                TraitItem::Macro(item) => &item.attrs,
                _ => &[],
            })
        });
        syn::fold::fold_item_trait(self, item)
    }

    fn fold_block(&mut self, mut block: syn::Block) -> syn::Block {
        block.stmts.retain(|statement| {
            let attributes = match statement {
                Stmt::Local(local) => &local.attrs,
                Stmt::Macro(call) => &call.attrs,
                Stmt::Item(item) => attributes(item),
                Stmt::Expr(..) => return true,
            };
            if is_for_tests(attributes) {
                return false;
            }
            if let Stmt::Item(Item::Use(item)) = statement {
                self.uses.push(item.tree.clone());
                return false;
            }
            true
        });
        syn::fold::fold_block(self, block)
    }
}

/// What a module's tokens name.
#[derive(Default)]
struct Names {
    paths: BTreeSet<Vec<String>>,
    macros: BTreeSet<String>,
    packages: BTreeSet<&'static str>,
    registrations: Vec<Result<Registration, String>>,
    /// Relative paths in `include_str!` and `include_bytes!`.
    included: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Names {
    fn scan(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut i = 0;
        while i < tokens.len() {
            match &tokens[i] {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(_) => {
                    let (path, length) = path_at(&tokens[i..]);
                    if path == ["register"] && i > 0 && is_punct(tokens.get(i - 1), '.') {
                        self.registrations.extend(registration(&tokens[i + 1..]));
                    }
                    i += length - 1;
                    self.name(&path, &tokens[i + 1..]);
                }
                _ => {}
            }
            i += 1;
        }
    }

    fn package(&mut self, path: &[String]) {
        let named = PACKAGES
            .iter()
            .find(|(name, _)| path.first().is_some_and(|first| first == name));
        self.packages.extend(named.map(|&(name, _)| name));
    }

    fn name(&mut self, path: &[String], after: &[TokenTree]) {
        self.package(path);
        if let (Some(TokenTree::Group(group)), [.., last]) = (after.get(1), path)
            && is_punct(after.first(), '!')
        {
            self.macros.insert(last.clone());
            if let ("include_str" | "include_bytes", Some(file)) =
                (last.as_str(), only_literal(group.stream()))
            {
                self.included.insert(file);
            }
        }
        if path.len() > 1 {
            self.paths.insert(path.to_vec());
        }
    }
}

/// The path `a::b::c` that `tokens` start with, and how many tokens it takes.
fn path_at(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut length = 0;
    while let Some(TokenTree::Ident(name)) = tokens.get(length) {
        path.push(text(name));
        length += 1;
        let colons = is_punct(tokens.get(length), ':') && is_punct(tokens.get(length + 1), ':');
        match tokens.get(length + 2) {
            Some(TokenTree::Ident(_)) if colons => length += 2,
            _ => break,
        }
    }
    (path, length)
}

/// The registration whose tokens after `register` these are; `None` when it is some other function of that name.
fn registration(after: &[TokenTree]) -> Option<Result<Registration, String>> {
    let is_turbofish =
        is_punct(after.first(), ':') && is_punct(after.get(1), ':') && is_punct(after.get(2), '<');
    if !is_turbofish {
        return None;
    }
    let (type_path, length) = path_at(&after[3..]);
    let shown = type_path.join("::");
    let wrong = || {
        Err(format!(
            "`register::<{shown}>`: write it as `register::<path::Type>(\"kind\", fingerprint(\"kind\"))`"
        ))
    };
    let rest = &after[3 + length..];
    let (true, Some(TokenTree::Group(arguments))) = (is_punct(rest.first(), '>'), rest.get(1))
    else {
        return Some(wrong());
    };
    let arguments: Vec<TokenTree> = arguments.stream().into_iter().collect();
    let fingerprinted = match &arguments[..] {
        [
            TokenTree::Literal(kind),
            TokenTree::Punct(_),
            TokenTree::Ident(function),
            TokenTree::Group(call),
            ..,
        ] if text(function) == "fingerprint" => {
            let kind = literal_text(&kind.to_string());
            kind.filter(|kind| only_literal(call.stream()).as_ref() == Some(kind))
        }
        _ => None,
    };
    Some(fingerprinted.map_or_else(wrong, |kind| Ok(Registration { kind, type_path })))
}

fn only_literal(stream: TokenStream) -> Option<String> {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    match &tokens[..] {
        [TokenTree::Literal(literal)] => literal_text(&literal.to_string()),
        _ => None,
    }
}

/// The content of a plain string literal without escapes.
fn literal_text(literal: &str) -> Option<String> {
    let text = literal.strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains('\\')).then(|| text.to_owned())
}

fn is_punct(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn text(name: &proc_macro2::Ident) -> String {
    name.to_string().trim_start_matches("r#").to_owned()
}

/// The paths in the header of an `impl`: of the type, of the trait, of their arguments.
fn header_paths(item: &syn::ItemImpl) -> Vec<Vec<String>> {
    fn all(stream: TokenStream, paths: &mut Vec<Vec<String>>) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut i = 0;
        while i < tokens.len() {
            match &tokens[i] {
                TokenTree::Group(group) => all(group.stream(), paths),
                TokenTree::Ident(_) => {
                    let (path, length) = path_at(&tokens[i..]);
                    paths.push(path);
                    i += length - 1;
                }
                _ => {}
            }
            i += 1;
        }
    }
    let mut paths = Vec::new();
    all(item.self_ty.to_token_stream(), &mut paths);
    if let Some((path, _)) = &item.trait_ {
        all(path.to_token_stream(), &mut paths);
    }
    paths
}

fn collect_imports(tree: &UseTree, prefix: &mut Vec<String>, module: &mut Module) {
    let mut import = |name: String, last: &proc_macro2::Ident| {
        let mut path = prefix.clone();
        if last != "self" {
            path.push(text(last));
        }
        module.imports.entry(name).or_default().insert(path);
    };
    match tree {
        UseTree::Path(path) => {
            prefix.push(text(&path.ident));
            collect_imports(&path.tree, prefix, module);
            prefix.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            import(prefix.last().cloned().unwrap_or_default(), &name.ident);
        }
        UseTree::Name(name) => import(text(&name.ident), &name.ident),
        UseTree::Rename(name) => import(text(&name.rename), &name.ident),
        UseTree::Glob(_) => {
            module.globs.insert(prefix.clone());
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                collect_imports(tree, prefix, module);
            }
        }
    }
}

fn defined_name(item: &Item) -> Option<String> {
    Some(text(match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    }))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether one of the attributes is `#[test]`, `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string().replace(' ', "");
            condition == "test" || condition.starts_with("all(test,")
        }
        _ => false,
    })
}

fn part(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// Hashes tokens without docs, lints and the commas that rustfmt adds when it breaks a line.
fn feed(hasher: &mut blake3::Hasher, stream: TokenStream, is_list: bool) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut i = 0;
    while i < tokens.len() {
        if is_punct(tokens.get(i), '#') {
            let bracket = i + 1 + usize::from(is_punct(tokens.get(i + 1), '!'));
            if let Some(TokenTree::Group(group)) = tokens.get(bracket)
                && let Some(TokenTree::Ident(name)) = group.stream().into_iter().next()
                && SILENT_ATTRIBUTES.contains(&name.to_string().as_str())
            {
                i = bracket + 1;
                continue;
            }
        }
        match &tokens[i] {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                // `(x,)` is a tuple and `(x)` is not, except after a name, where both are arguments.
                let commas = group
                    .stream()
                    .into_iter()
                    .filter(|t| is_punct(Some(t), ','))
                    .count();
                let is_list = group.delimiter() != Delimiter::Parenthesis
                    || commas > 1
                    || (i > 0 && ends_callee(&tokens[i - 1]));
                part(hasher, open);
                feed(hasher, group.stream(), is_list);
                part(hasher, close);
            }
            TokenTree::Ident(name) => part(hasher, &name.to_string()),
            TokenTree::Literal(literal) => part(hasher, &literal.to_string()),
            TokenTree::Punct(punct) => {
                let is_trailing = punct.as_char() == ','
                    && ((is_list && i + 1 == tokens.len()) || is_punct(tokens.get(i + 1), '>'));
                if !is_trailing {
                    part(hasher, &punct.to_string());
                }
            }
        }
        i += 1;
    }
}

/// Whether parentheses after this token hold arguments.
fn ends_callee(token: &TokenTree) -> bool {
    const KEYWORDS: [&str; 12] = [
        "return", "in", "match", "if", "while", "let", "mut", "break", "else", "move", "as", "ref",
    ];
    match token {
        TokenTree::Ident(name) => !KEYWORDS.contains(&name.to_string().as_str()),
        TokenTree::Punct(punct) => matches!(punct.as_char(), '>' | '!' | '?'),
        TokenTree::Group(group) => group.delimiter() != Delimiter::Brace,
        TokenTree::Literal(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small workspace: kind `load` in a module of its own, kind `features` that uses one of two kernels.
    const TREE: [(&str, &str); 10] = [
        (
            "stages/lib.rs",
            r#"
            pub mod features;
            mod load;
            pub fn registry() -> Registry {
                let mut registry = Registry::new();
                registry.register::<load::csv::LoadCsv>("load", fingerprint("load"));
                registry.register::<features::Features>("features", fingerprint("features"));
                registry
            }
            #[cfg(test)]
            mod tests { fn t(r: &mut Registry) { r.register::<Toy>("toy", "1"); } }
            "#,
        ),
        ("stages/load.rs", "pub mod csv;"),
        (
            "stages/load/csv.rs",
            "use natron_artifacts::Table;\npub struct LoadCsv;\nimpl LoadCsv { fn run(&self) -> Table { Table::new(1) } }",
        ),
        (
            "stages/features.rs",
            "//! Features.\nuse natron_artifacts::Table;\nuse natron_kernels::rolling;\n/// Doc.\npub struct Features;\n\
             impl Features {\n    fn run(&self) -> f64 { let x = rolling::mean(2.0); x }\n}\n\
             #[cfg(test)]\nmod tests { #[test] fn t() {} }",
        ),
        (
            "kernels/lib.rs",
            "pub mod rolling;\npub mod attention;\nmod base;\npub use base::half;",
        ),
        (
            "kernels/rolling.rs",
            "pub fn mean(x: f64) -> f64 { crate::half(x) }\nconst CUDA: &str = include_str!(\"rolling.cu\");",
        ),
        ("kernels/rolling.cu", "extern C"),
        (
            "kernels/base.rs",
            "pub fn half(x: f64) -> f64 { gemm::gemm(); x / 2.0 }\npub fn third(x: f64) -> f64 { x / 3.0 }",
        ),
        (
            "kernels/attention.rs",
            "pub fn softmax(x: f64) -> f64 { libm::exp(x) }",
        ),
        ("artifacts/lib.rs", "mod table;\npub use table::Table;"),
    ];
    const TABLE: &str =
        "pub struct Table(i64);\nimpl Table { pub fn new(x: i64) -> Self { Self(x) } }";
    const LOCK: &str = "[[package]]\nname = \"gemm\"\nversion = \"0.19.0\"\n\n[[package]]\nname = \"libm\"\nversion = \"0.2.16\"\n";

    /// The kinds' fingerprints after `replacements` of (file, old, new); a new file has an empty `old`.
    fn build(replacements: &[(&str, &str, &str)]) -> Result<BTreeMap<String, Fingerprint>, String> {
        let directory = tempfile::tempdir().unwrap();
        let mut files: BTreeMap<String, String> = TREE
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.to_owned()))
            .collect();
        files.insert("artifacts/table.rs".into(), TABLE.into());
        files.insert("Cargo.lock".into(), LOCK.into());
        for &(name, old, new) in replacements {
            let text = files.entry(name.to_owned()).or_default();
            assert!(text.contains(old), "{name} has no {old:?}");
            *text = if old.is_empty() {
                new.to_owned()
            } else {
                text.replace(old, new)
            };
        }
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = |name: &str| Root::new(&format!("natron_{name}"), directory.path().join(name));
        fingerprints(&Sources {
            stages: "natron_stages",
            roots: vec![root("stages"), root("kernels"), root("artifacts")],
            lock: directory.path().join("Cargo.lock"),
        })
    }

    /// The kinds whose fingerprint the replacements change.
    fn changed(replacements: &[(&str, &str, &str)]) -> Vec<String> {
        let (before, after) = (build(&[]).unwrap(), build(replacements).unwrap());
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>()
        );
        before
            .into_iter()
            .filter(|(kind, fingerprint)| after[kind].digest != fingerprint.digest)
            .map(|(kind, _)| kind)
            .collect()
    }

    #[test]
    fn covers_what_a_kind_names_and_nothing_else() {
        let kinds = build(&[]).unwrap();

        assert_eq!(
            kinds["load"].covers,
            ["natron_artifacts::table", "natron_stages::load::csv"]
        );
        assert_eq!(
            kinds["features"].covers,
            [
                "gemm 0.19.0",
                "natron_artifacts::table",
                "natron_kernels::base",
                "natron_kernels::rolling",
                "natron_stages::features",
            ]
        );
    }

    #[test]
    fn comments_docs_tests_layout_and_lints_do_not_count() {
        let features = "stages/features.rs";
        for (old, new) in [
            ("Doc.", "Other doc."),
            ("//! Features.", "//! Other.\n#![allow(dead_code)]"),
            ("fn t() {}", "fn t() { assert!(false) }"),
            ("let x = ", "let x\n   =  /* why */ "),
            ("mean(2.0)", "mean(\n2.0,\n)"),
            ("\n", "\r\n"),
            ("let x", "#[expect(unused)] let x"),
            (
                "use natron_artifacts::Table;\nuse natron_kernels::rolling;",
                "use natron_kernels::{rolling};\nuse natron_artifacts::Table;",
            ),
            (
                "impl Features {",
                "impl Features { #[cfg(test)] fn probe() {}",
            ),
        ] {
            assert_eq!(
                changed(&[(features, old, new)]),
                [""; 0],
                "{old:?} -> {new:?}"
            );
        }
    }

    #[test]
    fn a_kernels_body_counts_for_the_kinds_that_use_it() {
        assert_eq!(
            changed(&[(
                "kernels/rolling.rs",
                "crate::half(x)",
                "crate::half(x) + 1.0"
            )]),
            ["features"]
        );
        assert_eq!(
            changed(&[("kernels/base.rs", "x / 2.0", "x * 0.5")]),
            ["features"]
        );
        assert_eq!(
            changed(&[("kernels/rolling.cu", "extern C", "extern D")]),
            ["features"]
        );
        assert_eq!(
            changed(&[("kernels/attention.rs", "exp(x)", "exp(x + 0.0)")]),
            [""; 0]
        );
        assert_eq!(
            changed(&[("artifacts/table.rs", "Self(x)", "Self(x + 1)")]),
            ["features", "load"]
        );
    }

    #[test]
    fn where_a_reexport_points_counts() {
        let one = (
            "kernels/lib.rs",
            "pub use base::half;",
            "pub use base::third as half;",
        );

        assert_eq!(changed(&[one]), ["features"]);
    }

    #[test]
    fn a_version_counts_where_the_package_is_named() {
        assert_eq!(changed(&[("Cargo.lock", "0.19.0", "0.19.1")]), ["features"]);
        assert_eq!(changed(&[("Cargo.lock", "0.2.16", "0.2.17")]), [""; 0]);
    }

    #[test]
    fn an_imported_package_is_named() {
        let import = [(
            "stages/load/csv.rs",
            "pub struct",
            "use libm::exp;\npub struct",
        )];

        let covers = &build(&import).unwrap()["load"].covers;
        assert!(covers.contains(&"libm 0.2.16".to_owned()), "{covers:?}");
    }

    #[test]
    fn methods_written_in_other_modules_count() {
        let more = [
            ("artifacts/lib.rs", "mod table;", "mod table;\nmod rows;"),
            (
                "artifacts/rows.rs",
                "",
                "use crate::Table;\nimpl Table { pub fn rows(&self) -> i64 { 1 } }",
            ),
        ];
        let other = [more[0], (more[1].0, "", &more[1].2.replace('1', "2")[..])];
        let (one, other) = (build(&more).unwrap(), build(&other).unwrap());

        assert!(
            one["load"]
                .covers
                .contains(&"natron_artifacts::rows".to_owned())
        );
        assert_ne!(one["load"].digest, other["load"].digest);
    }

    #[test]
    fn globs_reach_everything_below() {
        let glob = [(
            "stages/features.rs",
            "use natron_kernels::rolling;",
            "use natron_kernels::*;",
        )];

        let covers = &build(&glob).unwrap()["features"].covers;
        assert!(
            covers.contains(&"natron_kernels::attention".to_owned()),
            "{covers:?}"
        );
    }

    #[test]
    fn a_tuple_of_one_is_not_a_value_in_parentheses() {
        let tuple = |new| build(&[("stages/features.rs", "let x = ", new)]).unwrap();

        assert_ne!(
            tuple("let y = (1,); let x = ")["features"].digest,
            tuple("let y = (1); let x = ")["features"].digest
        );
    }

    #[test]
    fn a_kind_with_another_fingerprint_stops_the_build() {
        let wrong = build(&[(
            "stages/lib.rs",
            "fingerprint(\"load\")",
            "fingerprint(\"laod\")",
        )]);

        let text = render(&wrong);
        assert!(
            text.starts_with(
                "compile_error!(\"code fingerprints: `register::<load::csv::LoadCsv>`: write it as"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_type_that_is_not_ours_stops_the_build() {
        let error = build(&[("stages/lib.rs", "load::csv::LoadCsv", "other::LoadCsv")])
            .err()
            .unwrap();

        assert_eq!(
            error,
            "stage kind `load`: no module of ours defines `other::LoadCsv`"
        );
    }

    #[test]
    fn the_rendered_function_knows_every_kind() {
        let kinds = build(&[]);
        let text = render(&kinds);
        let features = &kinds.unwrap()["features"].digest;

        assert!(
            text.contains(&format!("\"features\" => \"{features}\",")),
            "{text}"
        );
        assert!(syn::parse_file(&text).is_ok(), "{text}");
    }
}
