//! The modules of a crate and the names that each has in scope, read from its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Aliases that are followed from a name to its item. A longer chain is a circle of re-exports.
const MAX_HOPS: u32 = 16;

/// Index of a module in its crate.
type ModuleId = usize;

/// Segments of a path, such as `crate`, `disk` and `Partition`.
type Segments = Vec<String>;

/// What a name in a module stands for.
#[derive(Clone)]
enum Target {
    /// An item that the module's file defines.
    Item,
    /// A module that it declares.
    Module(ModuleId),
    /// A path that a `use` gives this name to.
    Alias(Segments),
}

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// An item of this module's file.
    ItemOf(ModuleId),
    /// The module itself.
    Module(ModuleId),
}

struct Module {
    file: PathBuf,
    parent: Option<ModuleId>,
    names: BTreeMap<String, Vec<Target>>,
    globs: Vec<Segments>,
    /// Paths that the code of the module names, those of private imports among them.
    paths: BTreeSet<Segments>,
}

/// Which files a file names, each with one of the paths that it does so by.
pub type Edges = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// The modules of a crate.
#[derive(Default)]
pub struct Crate {
    modules: Vec<Module>,
}

impl Crate {
    /// Reads the crate whose root is `file`.
    pub fn read(file: &Path) -> Self {
        let mut all = Self::default();
        let dir = file.parent().expect("a file is in a folder");
        all.read_file(file, dir, None);
        all
    }

    /// Reads a module from its file; files of its children are looked for in `dir`.
    fn read_file(&mut self, file: &Path, dir: &Path, parent: Option<ModuleId>) -> ModuleId {
        let shown = file.display();
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
        self.add(file, dir, parent, &parsed.items)
    }

    fn add(
        &mut self,
        file: &Path,
        dir: &Path,
        parent: Option<ModuleId>,
        items: &[syn::Item],
    ) -> ModuleId {
        let id = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            names: BTreeMap::new(),
            globs: Vec::new(),
            paths: BTreeSet::new(),
        });
        let mut reader = Reader {
            all: self,
            id,
            dir: dir.to_owned(),
        };
        for item in items {
            reader.visit_item(item);
        }
        id
    }

    /// Which files of the crate name which others.
    pub fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (id, module) in self.modules.iter().enumerate() {
            for path in &module.paths {
                for found in self.resolve(id, path, MAX_HOPS) {
                    let (Found::ItemOf(other) | Found::Module(other)) = found;
                    let other = &self.modules[other].file;
                    if *other != module.file {
                        let named = edges.entry(module.file.clone()).or_default();
                        named
                            .entry(other.clone())
                            .or_insert_with(|| path.join("::"));
                    }
                }
            }
        }
        edges
    }

    /// What a path that stands in a module leads to. A name may stand for several things: a type, a value and a macro.
    fn resolve(&self, from: ModuleId, path: &[String], hops: u32) -> BTreeSet<Found> {
        let Some((first, mut rest)) = path.split_first() else {
            return BTreeSet::new();
        };
        let mut reached = match first.as_str() {
            "crate" => BTreeSet::from([Found::Module(0)]),
            "self" => BTreeSet::from([Found::Module(from)]),
            "super" => self.modules[from]
                .parent
                .map(Found::Module)
                .into_iter()
                .collect(),
            name => self.look_up(from, name, hops),
        };
        while let Some((segment, after)) = rest.split_first() {
            rest = after;
            let mut next = BTreeSet::new();
            for found in reached {
                match found {
                    // A variant, a constant or a function of the item.
                    Found::ItemOf(_) => {
                        next.insert(found);
                    }
                    Found::Module(id) if segment == "super" => {
                        next.extend(self.modules[id].parent.map(Found::Module));
                    }
                    Found::Module(id) => next.extend(self.look_up(id, segment, hops)),
                }
            }
            reached = next;
        }
        reached
    }

    /// What a name stands for in a module.
    fn look_up(&self, id: ModuleId, name: &str, hops: u32) -> BTreeSet<Found> {
        let Some(hops) = hops.checked_sub(1) else {
            return BTreeSet::new();
        };
        let module = &self.modules[id];
        let mut found = BTreeSet::new();
        for target in module.names.get(name).into_iter().flatten() {
            match target {
                Target::Item => {
                    found.insert(Found::ItemOf(id));
                }
                Target::Module(child) => {
                    found.insert(Found::Module(*child));
                }
                // `use name;` of another crate stands for itself.
                Target::Alias(path) if path[0] == name => {}
                Target::Alias(path) => found.extend(self.resolve(id, path, hops)),
            }
        }
        if found.is_empty() {
            for glob in &module.globs {
                for target in self.resolve(id, glob, hops) {
                    if let Found::Module(other) = target {
                        found.extend(self.look_up(other, name, hops));
                    }
                }
            }
        }
        found
    }
}

/// Reads the items of one module.
struct Reader<'a> {
    all: &'a mut Crate,
    id: ModuleId,
    dir: PathBuf,
}

impl Reader<'_> {
    fn module(&mut self) -> &mut Module {
        &mut self.all.modules[self.id]
    }

    fn name(&mut self, name: &syn::Ident, target: Target) {
        let names = &mut self.module().names;
        names.entry(name.to_string()).or_default().push(target);
    }

    fn path(&mut self, path: Segments) {
        self.module().paths.insert(path);
    }

    /// Takes in what a `use` names. A re-export gives a name and needs nothing.
    fn import(&mut self, tree: &syn::UseTree, before: &Segments, is_private: bool) {
        let with = |segment: &syn::Ident| {
            let mut path = before.clone();
            if segment != "self" || before.is_empty() {
                path.push(segment.to_string());
            }
            path
        };
        match tree {
            syn::UseTree::Path(tree) => self.import(&tree.tree, &with(&tree.ident), is_private),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, is_private);
                }
            }
            syn::UseTree::Glob(_) => self.module().globs.push(before.clone()),
            syn::UseTree::Name(_) | syn::UseTree::Rename(_) => {
                let (path, name) = match tree {
                    syn::UseTree::Rename(tree) => (with(&tree.ident), tree.rename.to_string()),
                    syn::UseTree::Name(tree) => {
                        let path = with(&tree.ident);
                        let name = path.last().expect("it has a segment").clone();
                        (path, name)
                    }
                    _ => unreachable!("the arm takes these two"),
                };
                if is_private {
                    self.path(path.clone());
                }
                let names = &mut self.module().names;
                names.entry(name).or_default().push(Target::Alias(path));
            }
        }
    }

    /// Paths in what a macro is called with: identifiers with `::` between them.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Segments::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_of(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.end_of(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.end_of(&mut path);
    }

    /// A single identifier in a macro may as well be a variable.
    fn end_of(&mut self, path: &mut Segments) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.path(path);
        }
    }
}

/// The name that an item defines.
fn defined(item: &syn::Item) -> Option<&syn::Ident> {
    match item {
        syn::Item::Const(item) => Some(&item.ident),
        syn::Item::Enum(item) => Some(&item.ident),
        syn::Item::Fn(item) => Some(&item.sig.ident),
        syn::Item::Macro(item) => item.ident.as_ref(),
        syn::Item::Static(item) => Some(&item.ident),
        syn::Item::Struct(item) => Some(&item.ident),
        syn::Item::Trait(item) => Some(&item.ident),
        syn::Item::Type(item) => Some(&item.ident),
        syn::Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        if let Some(name) = defined(item) {
            self.name(name, Target::Item);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let inner = self.dir.join(&name);
        let child = if let Some((_, items)) = &item.content {
            let file = self.module().file.clone();
            self.all.add(&file, &inner, Some(self.id), items)
        } else {
            let beside = self.dir.join(format!("{name}.rs"));
            let below = inner.join("mod.rs");
            let file = if beside.exists() { beside } else { below };
            self.all.read_file(&file, &inner, Some(self.id))
        };
        self.name(&item.ident, Target::Module(child));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_private = matches!(item.vis, syn::Visibility::Inherited);
        self.import(&item.tree, &Segments::new(), is_private);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.path(segments.map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}
