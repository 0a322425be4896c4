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
    /// Methods that it calls, each with the type that it calls them on, where that is known.
    calls: BTreeSet<(Option<String>, String)>,
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
                    let (Found::ItemOf(other) | Found::Module(other)) = found;
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
    /// What `self` is.
    of_type: Option<String>,
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

/// Keys of `serde` whose values are paths.
const NAMING: [&str; 6] = [
    "with",
    "default",
    "serialize_with",
    "deserialize_with",
    "skip_serializing_if",
    "try_from",
];

/// The paths that an attribute of `serde` has in texts.
fn texts_of(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let texts = tokens.windows(3).filter_map(|three| match three {
        [
            TokenTree::Ident(key),
            TokenTree::Punct(_),
            TokenTree::Literal(text),
        ] if NAMING.iter().any(|naming| key == naming) => {
            Some(text.to_string().trim_matches('"').to_owned())
        }
        _ => None,
    });
    texts.collect()
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

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last(),
            _ => None,
        };
        let name = name.map(|segment| segment.ident.to_string());
        for inside in &item.items {
            if let (syn::ImplItem::Fn(method), None, Some(name)) = (inside, &item.trait_, &name)
                && method.sig.receiver().is_some()
                && !is_for_tests(&method.attrs)
            {
                let all = self.all.methods.entry(method.sig.ident.to_string());
                all.or_default().insert((name.clone(), self.id));
            }
        }
        let outer = std::mem::replace(&mut self.of_type, name);
        visit::visit_item_impl(self, item);
        self.of_type = outer;
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
        let of_type = self.of_type.clone().filter(|_| of_self);
        if of_type.is_some() == of_self {
            let call = (of_type, call.method.to_string());
            self.module().calls.insert(call);
        }
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
