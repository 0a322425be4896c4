//! The modules of a crate and the names that each has in scope, read from its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::syntax::{
    Segments, associated, attributes, defined, is_for_tests, segments_of, texts_of,
};

/// Aliases that are followed from a name to its item. A longer chain is a circle of re-exports.
const MAX_HOPS: u32 = 16;

/// Index of a module in its crate.
type ModuleId = usize;

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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// An item of this module's file, by the name that it has there.
    ItemOf(ModuleId, String),
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
    /// Methods that it calls, each with the type that it calls them on, where that is known.
    calls: BTreeSet<(Option<String>, String)>,
}

/// An item of a type, in a block that implements no trait.
struct Associated {
    /// The module with the block.
    id: ModuleId,
    /// The type, as the block names it.
    of_type: Segments,
}

/// Which files a file names, each with one of the paths that it does so by.
pub type Edges = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// The modules of a crate.
#[derive(Default)]
pub struct Crate {
    modules: Vec<Module>,
    /// Methods by their names: the types that they are of, and the modules that define them, outside of traits.
    methods: BTreeMap<String, BTreeSet<(String, ModuleId)>>,
    /// Methods of this crate's traits, which say nothing of who defines them.
    of_traits: BTreeSet<String>,
    /// Functions, methods and constants of types by their names.
    associated: BTreeMap<String, Vec<Associated>>,
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
            calls: BTreeSet::new(),
        });
        let mut reader = Reader {
            all: self,
            id,
            dir: dir.to_owned(),
            of_type: None,
            type_path: None,
        };
        for item in items {
            reader.visit_item(item);
        }
        id
    }

    /// Which files of the crate name which others.
    /// `of_others`: names of methods that other crates have, too.
    pub fn edges(&self, of_others: &BTreeSet<String>) -> Edges {
        let mut edges = Edges::new();
        for (id, module) in self.modules.iter().enumerate() {
            let mut name = |other: ModuleId, by: &dyn Fn() -> String| {
                let other = &self.modules[other].file;
                if *other != module.file {
                    let named = edges.entry(module.file.clone()).or_default();
                    named.entry(other.clone()).or_insert_with(by);
                }
            };
            for path in &module.paths {
                for found in self.resolve(id, path, MAX_HOPS) {
                    let (Found::ItemOf(other, _) | Found::Module(other)) = found;
                    name(other, &|| path.join("::"));
                }
            }
            for (of_type, method) in &module.calls {
                if let Some(other) = self.defines(of_type.as_deref(), method, of_others) {
                    name(other, &|| format!(".{method}()"));
                }
            }
        }
        edges
    }

    /// The names of the methods that the crate has.
    pub fn method_names(&self) -> impl Iterator<Item = &String> {
        self.methods.keys().chain(&self.of_traits)
    }

    /// The module that defines a method, if only one can be meant.
    fn defines(
        &self,
        of_type: Option<&str>,
        method: &str,
        of_others: &BTreeSet<String>,
    ) -> Option<ModuleId> {
        let all = self.methods.get(method)?;
        let own = |(name, _): &&(String, ModuleId)| of_type.is_none_or(|known| known == name);
        let mut fitting = all.iter().filter(own);
        let (_, id) = fitting.next()?;
        let may_be_others = self.of_traits.contains(method)
            || of_others.contains(method)
            || OF_THE_LIBRARY.contains(&method);
        let is_known = of_type.is_some() || !may_be_others;
        (is_known && fitting.next().is_none()).then_some(*id)
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
                    // A variant, a constant or a function of the item, which may lie elsewhere than the item.
                    Found::ItemOf(id, name) => {
                        next.extend(self.associated_with(id, &name, segment, hops));
                        next.insert(Found::ItemOf(id, name));
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

    /// What a segment behind the name of a type stands for, of those that some block gives to that type.
    fn associated_with(&self, id: ModuleId, name: &str, segment: &str, hops: u32) -> Vec<Found> {
        let Some(hops) = hops.checked_sub(1) else {
            return Vec::new();
        };
        let of_type = Found::ItemOf(id, name.to_owned());
        let all = self.associated.get(segment).into_iter().flatten();
        let fitting = all.filter(|it| self.resolve(it.id, &it.of_type, hops).contains(&of_type));
        fitting
            .map(|it| Found::ItemOf(it.id, segment.to_owned()))
            .collect()
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
                    found.insert(Found::ItemOf(id, name.to_owned()));
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
    /// What `self` is.
    of_type: Option<String>,
    /// What `Self` is.
    type_path: Option<Segments>,
}

impl Reader<'_> {
    fn module(&mut self) -> &mut Module {
        &mut self.all.modules[self.id]
    }

    fn name(&mut self, name: &syn::Ident, target: Target) {
        let names = &mut self.module().names;
        names.entry(name.to_string()).or_default().push(target);
    }

    fn path(&mut self, mut path: Segments) {
        if let Some(of_type) = self.type_path.as_ref().filter(|_| path[0] == "Self") {
            path.splice(..1, of_type.iter().cloned());
        }
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

    /// Methods that are called in what a macro is called with: identifiers behind a dot, with arguments or the types of a
    /// generic method behind them.
    fn calls_in(&mut self, tokens: &[TokenTree]) {
        let is_mark = |at: Option<usize>, mark: char| {
            let token = at.and_then(|at| tokens.get(at));
            matches!(token, Some(TokenTree::Punct(it)) if it.as_char() == mark)
        };
        for (at, token) in tokens.iter().enumerate() {
            let TokenTree::Ident(method) = token else {
                continue;
            };
            let has_arguments = matches!(
                tokens.get(at + 1),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis
            );
            let is_behind_dot = is_mark(at.checked_sub(1), '.') && !is_mark(at.checked_sub(2), '.');
            if is_behind_dot && (has_arguments || is_mark(Some(at + 1), ':')) {
                let receiver = at.checked_sub(2).map(|before| &tokens[before]);
                let of_self = matches!(receiver, Some(TokenTree::Ident(it)) if it == "self");
                self.call(of_self, method);
            }
        }
    }

    /// Takes in a call of a method. Whose it is, is known of `self` alone.
    fn call(&mut self, of_self: bool, method: &syn::Ident) {
        let of_type = self.of_type.clone().filter(|_| of_self);
        if of_type.is_some() == of_self {
            let call = (of_type, method.to_string());
            self.module().calls.insert(call);
        }
    }

    /// Paths in what a macro is called with: identifiers with `::` between them; and methods that are called there.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        self.calls_in(&tokens);
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

/// Methods of the standard library, and of what others give us, that some crate of ours has one of, too: without the type nobody knows
/// whose is meant.
const OF_THE_LIBRARY: &[&str] = &[
    "add",
    "all",
    "any",
    "args",
    "as_bytes",
    "as_path",
    "as_str",
    "bytes",
    "chunks",
    "clear",
    "clone",
    "code",
    "contains",
    "count",
    "create",
    "display",
    "end",
    "entry",
    "env",
    "extend",
    "file_name",
    "filter",
    "find",
    "finish",
    "first",
    "flush",
    "get",
    "insert",
    "into_inner",
    "is_empty",
    "is_file",
    "iter",
    "join",
    "keys",
    "kill",
    "last",
    "len",
    "lines",
    "lock",
    "map",
    "max",
    "metadata",
    "min",
    "name",
    "new",
    "next",
    "open",
    "parent",
    "parse",
    "path",
    "pop",
    "position",
    "push",
    "read",
    "remove",
    "replace",
    "reset",
    "run",
    "send",
    "set_len",
    "size",
    "skip",
    "sort",
    "spawn",
    "split",
    "start",
    "status",
    "step",
    "stop",
    "sum",
    "sync",
    "take",
    "text",
    "to_string",
    "values",
    "wait",
    "with_context",
    "write",
];

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
        let has_path = |attribute: &syn::Attribute| attribute.path().is_ident("path");
        if item.attrs.iter().any(has_path) {
            return;
        }
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
        self.path(segments_of(path));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let type_path: Option<Segments> = match &*item.self_ty {
            syn::Type::Path(path) => Some(segments_of(&path.path)),
            _ => None,
        };
        let name = type_path.as_ref().and_then(|path| path.last().cloned());
        for inside in &item.items {
            if let (Some(of_type), None, Some(name)) =
                (&type_path, &item.trait_, associated(inside))
            {
                let all = self.all.associated.entry(name.to_string());
                all.or_default().push(Associated {
                    id: self.id,
                    of_type: of_type.clone(),
                });
            }
            if let (syn::ImplItem::Fn(method), None, Some(name)) = (inside, &item.trait_, &name)
                && method.sig.receiver().is_some()
                && !is_for_tests(&method.attrs)
            {
                let all = self.all.methods.entry(method.sig.ident.to_string());
                all.or_default().insert((name.clone(), self.id));
            }
        }
        let outer = std::mem::replace(&mut self.of_type, name);
        let outer_path = std::mem::replace(&mut self.type_path, type_path);
        visit::visit_item_impl(self, item);
        self.of_type = outer;
        self.type_path = outer_path;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.all.of_traits.insert(item.sig.ident.to_string());
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let of_self =
            matches!(&*call.receiver, syn::Expr::Path(path) if path.path.is_ident("self"));
        self.call(of_self, &call.method);
        visit::visit_expr_method_call(self, call);
    }

    /// Attributes name functions too: `serde` in texts, others by their paths.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let syn::Meta::List(list) = &attribute.meta else {
            return;
        };
        if list.path.is_ident("serde") {
            for text in texts_of(list.tokens.clone()) {
                self.path(text.split("::").map(str::to_owned).collect());
            }
        } else {
            self.tokens(list.tokens.clone());
        }
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}
